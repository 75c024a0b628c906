"""What a graph's operators ask of the shape of an input whose own shape says too little."""

from __future__ import annotations

import onnx_ir as ir

_SHAPE_KEEPING = {
    *("Cast", "Identity", "Relu", "Sigmoid", "Tanh", "Gelu", "Clip", "Neg", "Abs", "Sqrt", "Exp"),
    *("Dropout", "LeakyRelu", "Elu", "QuantizeLinear", "DequantizeLinear", "BatchNormalization"),
}

Dims = list[int | None]


def wanted_dims(value: ir.Value) -> Dims | None:
    """The dims that the readers of ``value`` need: a number where a weight decides, else None.

    Looks through operators that keep the shape.  Returns None where no reader tells the rank.
    """
    pending, seen = [value], {value}
    while pending:
        current = pending.pop()
        for node, index in current.uses():
            dims = _asked(node, index, value)
            if dims is not None:
                return dims
            if node.op_type in _SHAPE_KEEPING and index == 0 and node.outputs[0] not in seen:
                seen.add(node.outputs[0])
                pending.append(node.outputs[0])
    return None


def _asked(node: ir.Node, index: int, value: ir.Value) -> Dims | None:
    """What one reader asks; the rank of ``value`` itself counts where it is known."""
    weight = _dims(node, 1)
    if node.op_type in ("Conv", "ConvTranspose", "ConvInteger") and index == 0 and weight:
        groups = node.attributes.get_int("group", 1)
        if len(weight) < 3:
            return None
        channels = weight[0] if node.op_type == "ConvTranspose" else weight[1] * groups
        return [None, channels, *[None] * (len(weight) - 2)]
    if node.op_type in ("MatMul", "MatMulInteger") and index == 0 and weight and len(weight) >= 2:
        rank = len(value.shape) if value.shape is not None else max(2, len(weight))
        return [*[None] * (rank - 1), weight[-2]] if rank else None
    if node.op_type == "Gemm" and index == 0 and weight and len(weight) == 2:
        inner = weight[1 if node.attributes.get_int("transB", 0) else 0]
        return [inner, None] if node.attributes.get_int("transA", 0) else [None, inner]
    if node.op_type in ("LSTM", "GRU", "RNN") and index == 0 and weight and len(weight) == 3:
        return [None, None, weight[2]]
    if node.op_type == "Gather" and index == 1:
        table = _dims(node, 0)
        rank = len(value.shape) if value.shape is not None else 2
        return [None] * rank if table else None
    return None


def _dims(node: ir.Node, index: int) -> list[int] | None:
    """The shape of an operand that is a constant, or that is computed from constants alone."""
    operand = node.inputs[index] if index < len(node.inputs) else None
    if operand is None:
        return None
    if operand.const_value is not None:
        return list(operand.const_value.shape.numpy())
    if operand.shape is not None and operand.shape.is_static() and operand.producer() is not None:
        return list(operand.shape.numpy())
    return None
