"""Raise softmax that is written out to Softmax-13 and LogSoftmax-13."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import MatchResult, RewriteRule

from bitfold.passes.canonicalize.rules import Rule, decline, ints, keeps_dims


class RaiseSoftmax(Rule):
    """``exp(z) / sum(exp(z))``, or ``z - log(sum(exp(z)))``, over one axis.

    z is x, or x less its largest element.  Declined: sums over several axes, another axis for
    the largest element.  The logarithm of a Softmax stays two nodes: it gives -inf where
    LogSoftmax does not.
    """

    def __init__(self, logarithm: bool, shifted: bool) -> None:
        self._op = "LogSoftmax" if logarithm else "Softmax"
        super().__init__(f"{self._op} raised from its parts")
        self._logarithm, self._shifted = logarithm, shifted

    def pattern(self, op: Any, x: Any, axes: Any, axes2: Any) -> Any:
        shifted = x
        if self._shifted:
            largest = op.ReduceMax(x, axes2, _allow_other_attributes=True, _outputs=["largest"])
            shifted = op.Sub(x, largest)
        power = op.Exp(shifted)
        total = op.ReduceSum(power, axes, _allow_other_attributes=True, _outputs=["total"])
        return op.Sub(shifted, op.Log(total)) if self._logarithm else op.Div(power, total)

    def check(
        self, context: Any, x: ir.Value, axes: ir.Value, total: ir.Value, **found: Any
    ) -> MatchResult:
        summed = ints(axes)
        if summed is None or len(summed) != 1 or x.shape is None:
            return decline("its sum is not over one axis", axes)
        if not keeps_dims([total]) or (self._shifted and not keeps_dims([found["largest"]])):
            return decline("its sum does not keep the axis", total)
        if self._shifted:
            other = ints(found["axes2"])
            rank = len(x.shape)
            if other is None or [each % rank for each in other] != [summed[0] % rank]:
                return decline("its largest elements are not of the same axis", found["axes2"])
        return MatchResult()

    def rewrite(self, op: Any, x: ir.Value, axes: ir.Value, **_: Any) -> Any:
        summed = ints(axes)
        assert summed is not None  # check looked
        return getattr(op, self._op)(x, axis=summed[0])


RULES: tuple[RewriteRule, ...] = tuple(
    RaiseSoftmax.rule(logarithm, shifted)
    for logarithm in (False, True)
    for shifted in (True, False)
)
