"""Raise decomposed GELU (Hendrycks and Gimpel, 2016), by erf or by tanh, to Gelu-20.

The form by Sigmoid, ``x * Sigmoid(1.702 x)``, is another function and no operator of opset 23: it
stays as it is.
"""

from __future__ import annotations

import math
from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import MatchResult, RewriteRule
from onnxscript.rewriter.pattern import Constant, OrValue

from bitfold.passes.canonicalize.rules import Rule, decline, either, is_scalar


def _outer(op: Any, form: int, x: Any, one_plus: Any, half: Any) -> Any:
    """x · one_plus · half in each association and order of the last product."""
    mul = op.Mul
    forms = (
        lambda: mul(either(mul, x, one_plus), half),
        lambda: mul(half, either(mul, x, one_plus)),
        lambda: mul(either(mul, x, half), one_plus),
        lambda: mul(one_plus, either(mul, x, half)),
        lambda: mul(x, either(mul, one_plus, half)),
        lambda: mul(either(mul, one_plus, half), x),
    )
    return forms[form]()


FORMS = 6


class RaiseGeluErf(Rule):
    """``x / 2 * (1 + erf(x / sqrt 2))``, in any association."""

    def __init__(self, form: int) -> None:
        super().__init__("Gelu raised from its erf form")
        self._form = form

    def pattern(self, op: Any, x: Any, half: Any, one: Any, root: Any) -> Any:
        # A variable could take x for the constant; the matcher would not come back to it.
        inverse_root = OrValue([Constant(math.sqrt(0.5)), Constant([math.sqrt(0.5)])])
        scaled = OrValue([op.Div(x, root), either(op.Mul, x, inverse_root)])
        return _outer(op, self._form, x, either(op.Add, op.Erf(scaled), one), half)

    def check(
        self,
        context: Any,
        half: ir.Value,
        one: ir.Value,
        root: ir.Value | None = None,
        **_: Any,
    ) -> MatchResult:
        wanted = [(half, 0.5), (one, 1.0)]
        if root is not None:
            wanted.append((root, math.sqrt(2)))
        for value, number in wanted:
            if not is_scalar(value, number):
                return decline(f"{value.name} is not {number:.6g}", value)
        return MatchResult()

    def rewrite(self, op: Any, x: ir.Value, **_: Any) -> Any:
        return op.Gelu(x, approximate="none")


class RaiseGeluTanh(Rule):
    """``x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))``, in any association."""

    def __init__(self, form: int) -> None:
        super().__init__("Gelu raised from its tanh form")
        self._form = form

    def pattern(
        self, op: Any, x: Any, half: Any, one: Any, three: Any, cubic: Any, scale: Any
    ) -> Any:
        cube = OrValue([op.Pow(x, three), either(op.Mul, x, op.Mul(x, x))])
        inner = either(op.Add, x, either(op.Mul, cube, cubic))
        one_plus = either(op.Add, op.Tanh(either(op.Mul, inner, scale)), one)
        return _outer(op, self._form, x, one_plus, half)

    def check(
        self,
        context: Any,
        half: ir.Value,
        one: ir.Value,
        cubic: ir.Value,
        scale: ir.Value,
        three: ir.Value | None = None,
        **_: Any,
    ) -> MatchResult:
        wanted = [(half, 0.5), (one, 1.0), (cubic, 0.044715), (scale, math.sqrt(2 / math.pi))]
        if three is not None:
            wanted.append((three, 3.0))
        for value, number in wanted:
            if not is_scalar(value, number):
                return decline(f"{value.name} is not {number:.6g}", value)
        return MatchResult()

    def rewrite(self, op: Any, x: ir.Value, **_: Any) -> Any:
        return op.Gelu(x, approximate="tanh")


RULES: tuple[RewriteRule, ...] = tuple(
    rule.rule(form) for rule in (RaiseGeluErf, RaiseGeluTanh) for form in range(FORMS)
)
