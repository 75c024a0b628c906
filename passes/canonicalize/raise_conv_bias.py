"""Raise the Add of a constant for each channel behind a convolution to the convolution's bias."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import MatchResult, RewriteRule

from bitfold.passes.canonicalize.matched import array_of, constant_named, node_of, weight_dims
from bitfold.passes.canonicalize.rules import Rule, decline, pass_over


class RaiseConvBias(Rule):
    """``Conv(x, W) + b`` for b[1, C, 1, 1] or [C, 1, 1]; an old bias takes it up."""

    def __init__(self, op_type: str, bias_first: bool) -> None:
        # Not for what a residual Add reads: whether others do matters for constants alone.
        super().__init__(
            f"{op_type} with the constant that is added as its bias", remove_nodes=False
        )
        self._op_type = op_type
        self._bias_first = bias_first

    def pattern(self, op: Any, x: Any, weight: Any, added: Any) -> Any:
        conv = getattr(op, self._op_type)(
            x, weight, _allow_other_inputs=True, _allow_other_attributes=True, _outputs=["conv"]
        )
        return op.Add(added, conv) if self._bias_first else op.Add(conv, added)

    def check(
        self, context: Any, weight: ir.Value, added: ir.Value, conv: ir.Value, **_: Any
    ) -> MatchResult:
        node, dims, shape = node_of(conv), weight_dims(added), weight.shape
        if dims is None or shape is None or not shape.is_static():
            return pass_over()  # a residual connection
        dims = (1,) * (len(shape) - len(dims)) + dims
        channels = _outputs(node, shape.numpy())
        if dims != (1, channels, *(1,) * (len(shape) - 2)):
            return decline("what is added is not a constant for each channel", added)
        if len(conv.uses()) > 1 or conv.is_graph_output():
            return decline(f"others read {conv.name} too", conv)
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if bias is not None and weight_dims(bias) is None:
            return decline(f"its bias {bias.name} is computed", bias)
        return MatchResult()

    def rewrite(
        self, op: Any, x: ir.Value, weight: ir.Value, added: ir.Value, conv: ir.Value, **_: Any
    ) -> Any:
        node, array = node_of(conv), array_of(added).reshape(-1)
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if bias is not None:
            array = (array_of(bias).astype(np.float64) + array).astype(array.dtype)
        constant = constant_named(op, array, f"{added.name}.bias")
        return op.op(self._op_type, x, weight, constant, **node.attributes)


def _outputs(conv: ir.Node, shape: tuple[int, ...]) -> int:
    """Output channels, from the shape of the weight."""
    if conv.op_type == "Conv":
        return shape[0]
    return shape[1] * conv.attributes.get_int("group", 1)


RULES: tuple[RewriteRule, ...] = tuple(
    RaiseConvBias.rule(op_type, bias_first)
    for op_type in ("Conv", "ConvTranspose")
    for bias_first in (False, True)
)
