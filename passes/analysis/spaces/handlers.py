"""Which handler follows coordinates through which operator.

To support an operator, write a handler (node, trace) in the file that it fits, and add a line.  A
handler gives the node's outputs their coordinates, and returns None, or why it cannot: then the
spaces of the node's inputs end there.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from bitfold.passes.analysis.sites import is_constant
from bitfold.passes.analysis.spaces import (
    attention_ops,
    linear_ops,
    moving_ops,
    norm_ops,
    pointwise_ops,
    reshaping,
    row_ops,
)
from bitfold.passes.analysis.spaces.trace import Trace
from bitfold.runtime.ops import DOMAIN

Handler = Callable[[ir.Node, Trace], "str | None"]

_FUNCTIONS = (
    *("Gelu", "Sigmoid", "Tanh", "Erf", "Softplus", "Softsign", "HardSwish", "HardSigmoid", "Elu"),
    *("Selu", "Celu", "Mish", "Swish", "Exp", "Log", "Sqrt", "Reciprocal", "Pow", "Clip", "Sin"),
    *("Cos", "Floor", "Ceil", "Round", "Sign", "ThresholdedRelu"),
)


def _matmul(node: ir.Node, trace: Trace) -> str | None:
    weight = node.inputs[1]
    producer = weight.producer() if weight is not None else None
    stored = (
        producer.inputs[0] if producer is not None and producer.op_type == "Transpose" else None
    )
    if any(value is not None and is_constant(value) for value in (weight, stored)):
        return linear_ops.linear(node, trace)
    return attention_ops.matmul(node, trace)


def _gather(node: ir.Node, trace: Trace) -> str | None:
    table = node.inputs[0]
    if table is not None and is_constant(table):
        floats = table.dtype is not None and table.dtype.is_floating_point()
        return linear_ops.linear(node, trace) if floats and len(table.shape or ()) == 2 else None
    return moving_ops.gather(node, trace)


def _size_alone(node: ir.Node, trace: Trace) -> str | None:
    """Shape and Size look at no element."""
    return None


HANDLERS: dict[tuple[str, str], Handler] = {
    **{("", name): pointwise_ops.function for name in _FUNCTIONS},
    **{("", name): moving_ops.same for name in ("Identity", "Cast")},
    ("", "Neg"): row_ops.negated,
    ("", "Resize"): row_ops.resize,
    ("", "Pad"): row_ops.pad,
    ("", "Softmax"): pointwise_ops.softmax,
    ("", "LogSoftmax"): pointwise_ops.softmax,
    **{("", name): row_ops.pool for name in ("AveragePool", "GlobalAveragePool")},
    **{("", n): reshaping.reshape for n in ("Reshape", "Flatten", "Squeeze", "Unsqueeze")},
    **{("", name): pointwise_ops.homogeneous for name in ("Relu", "LeakyRelu", "Abs")},
    ("", "PRelu"): pointwise_ops.prelu,
    **{("", name): _size_alone for name in ("Shape", "Size")},
    ("", "MaxPool"): pointwise_ops.maxima,
    ("", "GlobalMaxPool"): pointwise_ops.maxima,
    ("", "Transpose"): moving_ops.transpose,
    ("", "DepthToSpace"): moving_ops.depth_to_space,
    ("", "SpaceToDepth"): moving_ops.space_to_depth,
    ("", "Expand"): moving_ops.expand,
    ("", "Slice"): moving_ops.slice_,
    ("", "Split"): moving_ops.split,
    ("", "Concat"): moving_ops.concat,
    ("", "Gather"): _gather,
    ("", "MatMul"): _matmul,
    ("", "Gemm"): linear_ops.linear,
    ("", "Conv"): linear_ops.conv,
    ("", "Add"): pointwise_ops.add,
    ("", "Sub"): pointwise_ops.add,
    ("", "Mul"): pointwise_ops.multiply,
    ("", "Div"): pointwise_ops.multiply,
    ("", "Where"): pointwise_ops.where,
    ("", "ReduceMean"): row_ops.reduce,
    ("", "ReduceSum"): row_ops.reduce,
    ("", "RMSNormalization"): norm_ops.norm,
    ("", "LayerNormalization"): norm_ops.norm,
    ("", "BatchNormalization"): norm_ops.batch_norm,
    ("", "InstanceNormalization"): norm_ops.instance_norm,
    ("", "Attention"): attention_ops.attention,
    ("", "RotaryEmbedding"): attention_ops.rotary,
    (DOMAIN, "SwiGLU"): pointwise_ops.swiglu,
}
"""From domain and operator to handler."""

_FOLLOWED = {
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "MatMul"), 2),
    **{"Where": 3, "Attention": 3},
}


def followed(node: ir.Node) -> int:
    """How many of a node's inputs, from the first, a handler takes up coordinates of.

    The others are parameters; where one is computed from channels, these must stay as they are.
    """
    return len(node.inputs) if node.op_type == "Concat" else _FOLLOWED.get(node.op_type, 1)
