"""Whether two activations have the same shape, where shape inference lost the dimensions' names."""

from __future__ import annotations

import onnx_ir as ir

from bitfold.runtime.ops import DOMAIN

ELEMENTWISE = ("Gelu", "Relu", "Sigmoid", "Tanh", "Softmax", "Identity", "Neg", "Erf", "Sqrt")
"""Operators whose one output has the shape of their one input."""

BY_ROW = ("LayerNormalization", "RMSNormalization", "Split", "Attention", "MatMul")
"""Operators whose first output has the leading dimensions of their first input."""

OWN = ("QuantizeActivation", "SwiGLU", "LowBitMatMul")
MICROSOFT = ("MultiHeadAttention", "GroupQueryAttention")


def same_shape(a: ir.Value, b: ir.Value) -> bool:
    """Whether ``a`` and ``b`` certainly have the same shape.

    Exporters cut heads with Reshapes to computed shapes, behind which the names of the batch and
    sequence dimensions are lost.  So beside the names, values count as alike that come from one
    value by operators that keep all dimensions but the last.
    """
    if a.shape is None or b.shape is None or len(a.shape) != len(b.shape) or not len(a.shape):
        return False
    if all(_same_dim(x, y) for x, y in zip(a.shape, b.shape, strict=True)):
        return True
    return _same_dim(a.shape[-1], b.shape[-1]) and row_origin(a) is row_origin(b)


def row_origin(value: ir.Value) -> ir.Value:
    """The earliest value that certainly has the leading dimensions of ``value``."""
    while True:
        source = _row_source(value)
        if source is None:
            return value
        value = source


def _row_source(value: ir.Value) -> ir.Value | None:
    node = value.producer()
    if node is None or not node.inputs or node.inputs[0] is None:
        return None
    first = node.inputs[0]
    if node.domain in ("", "ai.onnx"):
        if node.op_type in ELEMENTWISE:
            return first
        if node.op_type in ("Add", "Mul", "Sub", "Div"):
            return _wider(node)
        if node.op_type in BY_ROW and _keeps_rows(node, value):
            return first
        return None
    if value is not node.outputs[0] and node.op_type != "LowBitMatMul":
        return None
    kept = (DOMAIN, OWN), ("com.microsoft", MICROSOFT)
    return first if any(node.domain == d and node.op_type in ops for d, ops in kept) else None


def _wider(node: ir.Node) -> ir.Value | None:
    """The operand whose rows an elementwise operator of two keeps."""
    a, b = node.inputs
    if a is None or b is None or a.shape is None or b.shape is None:
        return None
    if min(len(a.shape), len(b.shape)) <= 1 < max(len(a.shape), len(b.shape)):
        return a if len(a.shape) > 1 else b
    return a if same_shape(a, b) else None


def _same_dim(x: int | ir.SymbolicDim, y: int | ir.SymbolicDim) -> bool:
    if isinstance(x, int) or isinstance(y, int):
        return x == y
    return x.value is not None and x.value == y.value


def _keeps_rows(node: ir.Node, value: ir.Value) -> bool:
    first = node.inputs[0]
    assert first is not None  # the caller looked
    rank = len(first.shape) if first.shape is not None else None
    if rank is None:
        return False
    if node.op_type == "MatMul":
        weight = node.inputs[1]
        flat = weight is not None and weight.shape is not None and len(weight.shape) == 2
        return flat and rank > 1
    if node.op_type == "Split":
        return node.attributes.get_int("axis", 0) in (-1, rank - 1)
    return value is node.outputs[0] and (node.op_type != "Attention" or rank == 3)
