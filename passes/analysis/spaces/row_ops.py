"""Operators that mix, pad or resize rows, and leave channels what they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis.sites import input_at
from bitfold.passes.analysis.spaces.symmetry import CENTER, ROTATE, SCALE
from bitfold.passes.analysis.spaces.trace import Trace, dims_of, numbers_at, varying
from bitfold.passes.core.rewire import constant


def negated(node: ir.Node, trace: Trace) -> str | None:
    """Neg."""
    ids = trace.ids(input_at(node, 0))
    if ids is not None:
        trace.carry(node.outputs[0], ids)
    return None


def resize(node: ir.Node, trace: Trace) -> str | None:
    """Resize of pixels."""
    ids, output = trace.ids(input_at(node, 0)), node.outputs[0]
    old, new = dims_of(input_at(node, 0)), dims_of(output)
    if ids is None:
        return None
    mode = node.attributes.get_string("coordinate_transformation_mode", "half_pixel")
    if old is None or new is None or mode == "tf_crop_and_resize":
        return "what it resizes is not known"
    if any(old[axis] is None or old[axis] != new[axis] for axis in varying(ids)):
        return "it resizes channels"
    trace.carry(output, ids)
    return None


def pad(node: ir.Node, trace: Trace) -> str | None:
    """Pad of rows: with zeros, or with what is there."""
    ids, pads = trace.ids(input_at(node, 0)), numbers_at(node, 1)
    if ids is None:
        return None
    axes = range(ids.ndim) if input_at(node, 3) is None else numbers_at(node, 3)
    if pads is None or axes is None:
        return "how much it pads is no constant"
    ends = pads[len(pads) // 2 :]
    padded = {axis % ids.ndim for axis, *by in zip(axes, pads, ends, strict=False) if any(by)}
    if not padded.isdisjoint(varying(ids)):
        return "it pads channels"
    if node.attributes.get_string("mode", "constant") == "constant":
        fill = constant(input_at(node, 2))
        if input_at(node, 2) is not None and (fill is None or np.any(fill)):
            trace.limit(ids, ROTATE | SCALE | CENTER, node, "fills in other numbers")
    trace.carry(node.outputs[0], ids)
    return None


def pool(node: ir.Node, trace: Trace) -> str | None:
    """Means over axes from the third on."""
    ids = trace.ids(input_at(node, 0))
    if ids is None:
        return None
    if any(size > 1 for size in ids.shape[2:]):
        return "it pools over channels"
    trace.carry(node.outputs[0], ids)
    return None


def reduce(node: ir.Node, trace: Trace) -> str | None:
    """ReduceMean and ReduceSum over rows."""
    source, output = input_at(node, 0), node.outputs[0]
    ids = trace.ids(source)
    if ids is None:
        return None
    axes: Sequence[int] | None = node.attributes.get_ints("axes", ())  # of older opsets
    if input_at(node, 1) is not None:
        axes = numbers_at(node, 1)
    if not axes:
        return "the axes that it sums over are not known"
    if any(ids.shape[axis] > 1 for axis in axes):
        if {axis % ids.ndim for axis in axes} >= set(varying(ids)):
            trace.limit(ids, ROTATE | SCALE | CENTER, node, "sums over channels")
            return None
        return "it sums over channels"
    if not node.attributes.get_int("keepdims", 1):
        ids = np.squeeze(ids, tuple(axes))
    trace.carry(output, ids)
    return None
