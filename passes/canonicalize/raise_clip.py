"""Raise what limits a value from both sides to Clip: Min and Max, ReLU and Min (ReLU6)."""

from __future__ import annotations

import itertools
from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import MatchResult, RewriteRule
from onnxscript.rewriter.pattern import Constant, OrValue

from bitfold.passes.canonicalize.rules import Rule, decline, pass_over, scalar


def number(value: float) -> Any:
    """A pattern for a constant, as a scalar or a vector of one element."""
    return OrValue([Constant(value), Constant([value])])


class RaiseClip(Rule):
    """``Min(Max(x, low), high)`` or ``Max(Min(x, high), low)``, in any order of the inputs."""

    def __init__(self, outer: str, outer_first: bool, inner_first: bool) -> None:
        super().__init__("Clip raised from Min and Max")
        self._outer = outer
        self._orders = (outer_first, inner_first)

    def pattern(self, op: Any, x: Any, near: Any, far: Any) -> Any:
        outer, inner = (op.Min, op.Max) if self._outer == "Min" else (op.Max, op.Min)
        outer_first, inner_first = self._orders
        limited = inner(near, x) if inner_first else inner(x, near)
        return outer(far, limited) if outer_first else outer(limited, far)

    def check(
        self, context: Any, x: ir.Value, near: ir.Value, far: ir.Value, **_: Any
    ) -> MatchResult:
        inner, outer = scalar(near), scalar(far)
        if inner is None or outer is None or scalar(x) is not None:
            return pass_over()
        low, high = (inner, outer) if self._outer == "Min" else (outer, inner)
        if low > high:
            return decline(f"{low:g} to {high:g} is no range", near, far)
        return _only_limits(x, near, far)

    def rewrite(self, op: Any, x: ir.Value, near: ir.Value, far: ir.Value, **_: Any) -> Any:
        low, high = (near, far) if self._outer == "Min" else (far, near)
        return _clip(op, x, scalar(low), scalar(high))


class RaiseRelu6(Rule):
    """``Min(Relu(x), high)`` and ``Clip(Relu(x), low, high)``."""

    def __init__(self, form: int) -> None:
        super().__init__("Clip raised from Relu and an upper limit")
        self._form = form

    def pattern(self, op: Any, x: Any, low: Any, high: Any) -> Any:
        positive = op.Relu(x)
        forms = (op.Min(positive, high), op.Min(high, positive), op.Clip(positive, low, high))
        return forms[self._form]

    def check(
        self,
        context: Any,
        x: ir.Value,
        high: ir.Value | None = None,
        low: ir.Value | None = None,
        **_: Any,
    ) -> MatchResult:
        top, bottom = scalar(high), 0.0 if low is None else scalar(low)
        if top is None or bottom is None:
            return pass_over()
        if top < max(bottom, 0.0):
            return decline(f"the upper limit {top:g} is below the lower", high, low)
        return _only_limits(x, high)

    def rewrite(
        self, op: Any, x: ir.Value, high: ir.Value, low: ir.Value | None = None, **_: Any
    ) -> Any:
        return _clip(op, x, max(scalar(low) or 0.0, 0.0), scalar(high))


def _only_limits(x: ir.Value, *limits: ir.Value | None) -> MatchResult:
    """Whether x is float32 and its shape is not stretched by a limit."""
    if x.dtype != ir.DataType.FLOAT:
        return decline(f"{x.name} is {x.dtype}", x)
    ranks = [
        len(v.const_value.shape) for v in limits if v is not None and v.const_value is not None
    ]
    if any(ranks) and (x.shape is None or len(x.shape) < max(ranks)):
        return decline(f"{x.name} may have fewer axes than its limit", x)
    return MatchResult()


def _clip(op: Any, x: ir.Value, low: float | None, high: float | None) -> Any:
    return op.Clip(x, op.Constant(value_float=low), op.Constant(value_float=high))


RULES: tuple[RewriteRule, ...] = (
    *(
        RaiseClip.rule(outer, *orders)
        for outer in ("Min", "Max")
        for orders in itertools.product((False, True), repeat=2)
    ),
    *(RaiseRelu6.rule(form) for form in range(3)),
)
