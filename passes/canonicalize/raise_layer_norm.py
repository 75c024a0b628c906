"""Raise decomposed layer normalization (Ba et al., 2016) to LayerNormalization-17."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import MatchResult, RewriteRule
from onnxscript.rewriter.pattern import OrValue

from bitfold.passes.canonicalize.rules import (
    Rule,
    decline,
    either,
    is_scalar,
    keeps_dims,
    last_axis_only,
    last_dim,
    pass_over,
    scalar,
    vector_length,
)


class RaiseLayerNorm(Rule):
    """``(x - mean) / sqrt(mean((x - mean)^2) + epsilon) * gain`` over the last axis.

    Declined: a mean over other axes, a gain that is not a constant vector of the last axis.
    """

    def __init__(self, gain_first: bool) -> None:
        super().__init__("LayerNormalization raised from its parts")
        self._gain_first = gain_first

    def pattern(
        self,
        op: Any,
        x: Any,
        gain: Any,
        epsilon: Any,
        axes: Any,
        axes2: Any,
        two: Any,
        one: Any,
    ) -> Any:
        mean = op.ReduceMean(x, axes, _allow_other_attributes=True, _outputs=["mean"])
        centred = op.Sub(x, mean)
        # torch.onnx writes the subtraction twice; CSE has merged the two by now.
        square = OrValue([op.Pow(centred, two), op.Mul(centred, centred)])
        variance = op.ReduceMean(square, axes2, _allow_other_attributes=True, _outputs=["variance"])
        root = op.Sqrt(either(op.Add, variance, epsilon))
        inverse = OrValue([op.Reciprocal(root), op.Div(one, root)])
        normal = OrValue([op.Div(centred, root), either(op.Mul, centred, inverse)])
        return op.Mul(gain, normal) if self._gain_first else op.Mul(normal, gain)

    def check(
        self,
        context: Any,
        x: ir.Value,
        gain: ir.Value,
        epsilon: ir.Value,
        axes: ir.Value,
        axes2: ir.Value,
        mean: ir.Value,
        variance: ir.Value,
        two: ir.Value | None = None,
        one: ir.Value | None = None,
        **_: Any,
    ) -> MatchResult:
        if two is not None and not is_scalar(two, 2):
            return decline("the power is not 2", two)
        if one is not None and not is_scalar(one, 1):
            return decline("the dividend is not 1", one)
        if scalar(epsilon) is None:
            return decline("epsilon is not a constant scalar", epsilon)
        over_last = last_axis_only(x, axes) and last_axis_only(x, axes2)
        if not keeps_dims([mean, variance]) or not over_last:
            return decline("the means are not over the last axis alone, kept", axes, axes2)
        if x.dtype not in (ir.DataType.FLOAT, ir.DataType.DOUBLE):
            return decline(f"its input is {x.dtype}, not float or double", x)
        length = vector_length(gain)
        if length is None or last_dim(x) not in (None, length):
            return decline("the gain is not a constant vector of the last axis", gain)
        return MatchResult()

    def rewrite(self, op: Any, x: ir.Value, gain: ir.Value, epsilon: ir.Value, **_: Any) -> Any:
        stash_type = int(x.dtype) if x.dtype is not None else int(ir.DataType.FLOAT)
        return op.LayerNormalization(
            x, gain, axis=-1, epsilon=scalar(epsilon), stash_type=stash_type
        )


class RaiseLayerNormBias(Rule):
    """``LayerNormalization(x, gain) + bias`` with a constant vector as bias, into one node."""

    def __init__(self, bias_first: bool) -> None:
        super().__init__("LayerNormalization raised from its parts with its bias")
        self._bias_first = bias_first

    def pattern(self, op: Any, x: Any, gain: Any, bias: Any) -> Any:
        normal = op.LayerNormalization(x, gain, _allow_other_attributes=True, _outputs=["normal"])
        return op.Add(bias, normal) if self._bias_first else op.Add(normal, bias)

    def check(self, context: Any, gain: ir.Value, bias: ir.Value, **_: Any) -> MatchResult:
        length = vector_length(bias)
        if length is None or length != vector_length(gain):
            return pass_over()
        return MatchResult()

    def rewrite(
        self, op: Any, x: ir.Value, gain: ir.Value, bias: ir.Value, normal: ir.Value, **_: Any
    ) -> Any:
        node = normal.producer()
        assert node is not None  # the pattern matched it
        attributes = {name: attr.value for name, attr in node.attributes.items()}
        return op.LayerNormalization(x, gain, bias, **attributes)


RULES: tuple[RewriteRule, ...] = (
    RaiseLayerNorm.rule(True),
    RaiseLayerNorm.rule(False),
)
BIAS_RULES: tuple[RewriteRule, ...] = (
    RaiseLayerNormBias.rule(True),
    RaiseLayerNormBias.rule(False),
)
