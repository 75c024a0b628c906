"""Refuse models that ask for more memory than there is, before anything runs."""

from __future__ import annotations

import math
import os

import onnx_ir as ir

from bitfold.passes.core.invariants import label_of
from bitfold.passes.core.stage import snapshot
from bitfold.passes.opsets.infer_shapes import infer_shapes
from bitfold.runtime.errors import ModelError


def check_sizes(model: ir.Model) -> None:
    """Check the inferred shape of every value that a node computes.

    A file of a hundred bytes can ask for a tensor of 2**40 rows; a runtime that tries to make
    it takes the machine down with it.

    Raises:
        ModelError: a value that is larger than this machine's memory; names the node.
    """
    inferred = snapshot(model)
    infer_shapes(inferred)
    memory = _memory()
    for node in inferred.graph.all_nodes():
        for value in node.outputs:
            size = _size(value)
            if size > memory:
                raise ModelError(
                    f"{label_of(node)}: its output {value.name!r} of shape "
                    f"{list(value.shape or ())} takes {size >> 30} GiB, and this machine has "
                    f"{memory >> 30} GiB",
                    "export the model for smaller inputs",
                )


def _size(value: ir.Value) -> int:
    """Bytes of a value whose fixed dimensions alone are counted."""
    if value.shape is None:
        return 0
    dims = [dim for dim in value.shape if isinstance(dim, int)]
    dtype = value.dtype
    bits = 8 if dtype is None or dtype in _WITHOUT_WIDTH else dtype.bitwidth
    return math.prod(dims) * bits // 8


_WITHOUT_WIDTH = (ir.DataType.STRING, ir.DataType.UNDEFINED)


def _memory() -> int:
    """Bytes of physical memory; as much as any machine has where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 1 << 44
