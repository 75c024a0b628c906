"""bitfold: a compiler that turns exported ONNX models into low-bit ones.

Example::

    import bitfold

    bitfold.convert("model.onnx", "model.w4a8.onnx", preset="w4a8")
    session = bitfold.Session("model.w4a8.onnx", threads=2)
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

_ROOT = Path(__file__).resolve().parent.parent
if (_ROOT / "passes" / "core").is_dir() and str(_ROOT) not in __path__:
    # A checkout keeps the subpackages beside this folder; a wheel has them inside it.
    __path__.append(str(_ROOT))

if TYPE_CHECKING:
    from bitfold.frontend.convert import convert as convert
    from bitfold.frontend.inspection import inspect as inspect
    from bitfold.frontend.verification import verify as verify
    from bitfold.passes.core.base import Pass as Pass
    from bitfold.passes.core.base import Promise as Promise
    from bitfold.passes.core.context import Context as Context
    from bitfold.passes.core.pipeline import Pipeline as Pipeline
    from bitfold.passes.core.report import Report as Report
    from bitfold.runtime.errors import BitfoldError as BitfoldError
    from bitfold.runtime.op_library import op_library_path as op_library_path
    from bitfold.runtime.session import Session as Session

_PUBLIC = {
    "BitfoldError": "bitfold.runtime.errors",
    "Context": "bitfold.passes.core.context",
    "Pass": "bitfold.passes.core.base",
    "Pipeline": "bitfold.passes.core.pipeline",
    "Promise": "bitfold.passes.core.base",
    "Report": "bitfold.passes.core.report",
    "Session": "bitfold.runtime.session",
    "convert": "bitfold.frontend.convert",
    "inspect": "bitfold.frontend.inspection",
    "load": "bitfold.frontend.importers",
    "op_library_path": "bitfold.runtime.op_library",
    "verify": "bitfold.frontend.verification",
}

__version__ = "0.1.0"
__all__ = sorted([*_PUBLIC, "__version__"])


def __getattr__(name: str) -> Any:
    """Import public names when they are first used: ``import bitfold`` itself stays fast."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'bitfold' has no attribute {name!r}")
    module = importlib.import_module(_PUBLIC[name])
    return getattr(module, "import_model" if name == "load" else name)


def __dir__() -> list[str]:
    return __all__
