"""What a result depends on, in a few characters."""

from __future__ import annotations

import hashlib
import importlib.metadata
from functools import cache
from pathlib import Path

import numpy as np
import onnx_ir as ir

from bitfold.passes.core.metadata import versions
from bitfold.passes.core.spool import let_go
from bitfold.passes.core.stage import snapshot
from bitfold.runtime.errors import BitfoldError
from bitfold.runtime.op_library import op_library_path


def model_digest(model: ir.Model) -> str:
    """The SHA-256 of a model's graph, of all its weights' bytes, and of what is noted on them."""
    digest, bare = hashlib.sha256(), snapshot(model)
    for graph in bare.graphs():
        for name, value in list(graph.initializers.items()):
            tensor = value.const_value
            # A weight's own scheme is noted there.
            digest.update(f"{name} {sorted(value.metadata_props.items())}\n".encode())
            if tensor is None or tensor.dtype == ir.DataType.STRING:
                continue
            digest.update(f"{name} {tensor.dtype} {tensor.shape}\n".encode())
            digest.update(np.ascontiguousarray(tensor.numpy()).reshape(-1).view(np.uint8).data)
            let_go(tensor)
            value.const_value = None
            if not value.is_graph_input():
                del graph.initializers[name]
    digest.update(ir.to_proto(bare).SerializeToString(deterministic=True))
    return digest.hexdigest()


@cache
def software_digest() -> str:
    """The SHA-256 of what computes: bitfold's own code, and the versions of what it stands on.

    A number that is raised by hand would miss what was changed and not released.
    """
    digest = hashlib.sha256(f"{versions()} {importlib.metadata.version('scipy')}".encode())
    root = Path(__file__).parents[2]
    for folder in (root / "passes", root / "runtime"):
        for path in sorted(folder.rglob("*.py")):
            digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    try:
        library = op_library_path()
        digest.update(Path(library).read_bytes() if library else b"")
    except (BitfoldError, OSError):
        digest.update(b"no operators")
    return digest.hexdigest()
