"""Raise decomposed RMS normalization (Zhang and Sennrich, 2019) to RMSNormalization-23."""

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
    scalar,
    vector_length,
)


class RaiseRmsNorm(Rule):
    """``x / sqrt(mean(x^2) + epsilon) * gain`` over the last axis, however it is written.

    The square may be Pow or Mul; the root may divide, or multiply as Reciprocal or 1/root.
    Declined: a mean over other axes, a gain that is not a constant vector of the last axis.
    """

    def __init__(self, gain_first: bool) -> None:
        super().__init__("RMSNormalization raised from its parts")
        self._gain_first = gain_first

    def pattern(
        self, op: Any, x: Any, gain: Any, epsilon: Any, axes: Any, two: Any, one: Any
    ) -> Any:
        square = OrValue([op.Pow(x, two), op.Mul(x, x)])
        mean = op.ReduceMean(square, axes, _allow_other_attributes=True, _outputs=["mean"])
        root = op.Sqrt(either(op.Add, mean, epsilon))
        inverse = OrValue([op.Reciprocal(root), op.Div(one, root)])
        normal = OrValue([op.Div(x, root), either(op.Mul, x, inverse)])
        return op.Mul(gain, normal) if self._gain_first else op.Mul(normal, gain)

    def check(
        self,
        context: Any,
        x: ir.Value,
        gain: ir.Value,
        epsilon: ir.Value,
        axes: ir.Value,
        mean: ir.Value,
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
        if not keeps_dims([mean]) or not last_axis_only(x, axes):
            return decline("the mean is not over the last axis alone, kept", axes)
        if x.dtype not in (ir.DataType.FLOAT, ir.DataType.DOUBLE):
            return decline(f"its input is {x.dtype}, not float or double", x)
        length = vector_length(gain)
        if length is None or last_dim(x) not in (None, length):
            return decline("the gain is not a constant vector of the last axis", gain)
        return MatchResult()

    def rewrite(self, op: Any, x: ir.Value, gain: ir.Value, epsilon: ir.Value, **_: Any) -> Any:
        return op.RMSNormalization(
            x, gain, axis=-1, epsilon=scalar(epsilon), stash_type=_stash_type(x)
        )


def _stash_type(x: ir.Value) -> int:
    return int(x.dtype) if x.dtype is not None else int(ir.DataType.FLOAT)


RULES: tuple[RewriteRule, ...] = (RaiseRmsNorm.rule(True), RaiseRmsNorm.rule(False))
