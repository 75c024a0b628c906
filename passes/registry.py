"""Every pass that recipes can call by name: to add one, import it and add a line to the list."""

from __future__ import annotations

from bitfold.passes.core.base import Pass
from bitfold.passes.fuse.fuse_swiglu import FuseSwiGLU
from bitfold.passes.lower.lower import Lower
from bitfold.passes.quantize.quantize import Quantize

PASSES: list[type[Pass]] = [
    FuseSwiGLU,
    Quantize,
    Lower,
]


def find(name: str) -> type[Pass] | None:
    """The pass called ``name``, or None."""
    return next((cls for cls in PASSES if cls.name == name), None)
