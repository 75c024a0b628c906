"""Compute ahead what depends on small constants alone, with onnxscript's optimizer."""

from __future__ import annotations

import logging
import math

import numpy as np
import onnx_ir as ir
from onnxscript import optimizer

from bitfold.passes.canonicalize.reshape_targets import mixes_zero_and_rest

_LOG = logging.getLogger(__name__)

SHARED_TRANSPOSE = 256
"""A Transpose of a weight of at least this many elements that others read too stays a node."""

_SEQUENCES = {"SplitToSequence", "SequenceEmpty", "SequenceConstruct", "SequenceInsert"}
"""The optimizer cannot hold a sequence as a constant."""

_GROWING = {"ConstantOfShape", "Expand", "Tile", "Range", "Pad", "OneHot", "Resize", "Upsample"}
"""A few numbers tell these to make as many as they like."""


def fold_constants(model: ir.Model, limit: int) -> None:
    """Fold constants of ``model`` in place.

    Args:
        limit: elements; no node with a larger input or output is computed ahead, so a weight is
            never written twice, and a shape that asks for more memory than there is, never
            computed.
    """

    def should_fold(node: ir.Node) -> bool | None:
        if node.op_type in _SEQUENCES or _grows(node, limit) or _is_refused_target(node):
            return False
        return False if _is_tied_head(node) else None

    try:
        optimizer.fold_constants_ir(
            model,
            onnx_shape_inference=True,
            input_size_limit=limit,
            output_size_limit=limit,
            should_fold=should_fold,
        )
    except Exception:
        # The optimizer computes any operator in Python, and a broken one raises anything.  What
        # cannot be computed ahead is left for the run; what came before it is folded.
        _LOG.debug("constants after the first that cannot be computed stay", exc_info=True)


def _is_tied_head(node: ir.Node) -> bool:
    """Whether this is the Transpose of a weight that others read: folding would copy it."""
    source = node.inputs[0] if node.inputs else None
    if node.op_type != "Transpose" or source is None or source.const_value is None:
        return False
    shared = any(user.op_type != "Transpose" for user, _ in source.uses())
    return shared and source.const_value.size >= SHARED_TRANSPOSE


def _is_refused_target(node: ir.Node) -> bool:
    """Whether this joins a target that Reshape takes computed, but not as a constant."""
    if node.op_type != "Concat" or node.domain != "":
        return False
    constants = [_small(value) for value in node.inputs]
    numbers = [number for each in constants if each is not None for number in each.tolist()]
    return mixes_zero_and_rest(node.outputs[0], numbers)


def _grows(node: ir.Node, limit: int) -> bool:
    """Whether a node that makes much of little makes more than ``limit`` elements, or may."""
    if node.op_type not in _GROWING or node.domain != "":
        return False
    shape = node.outputs[0].shape
    if shape is not None and shape.is_static():
        return math.prod(shape.numpy()) > limit
    constants = [_small(value) for value in node.inputs]
    if node.op_type in ("ConstantOfShape", "Expand"):
        dims = constants[-1]
        inner = node.inputs[0].shape if node.op_type == "Expand" and node.inputs[0] else None
        factor = math.prod(inner.numpy()) if inner is not None and inner.is_static() else 1
        return dims is None or abs(math.prod(int(d) for d in dims)) * factor > limit
    if node.op_type == "Range":
        if len(constants) != 3 or any(each is None or each.size != 1 for each in constants):
            return True
        start, stop, step = (float(each[0]) for each in constants if each is not None)
        return not step or not math.isfinite(stop - start) or abs((stop - start) / step) > limit
    return True


def _small(value: ir.Value | None) -> np.ndarray | None:
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    if tensor is None or tensor.size > 64 or tensor.dtype == ir.DataType.STRING:
        return None
    return tensor.numpy().reshape(-1)
