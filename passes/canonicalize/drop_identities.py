"""Drop arithmetic that changes nothing: ``x + 0``, ``x - 0``, ``x * 1``, ``x / 1``.

onnxscript has such rules, but they take 1e-12, BERT's epsilon, for 0.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import MatchResult, RewriteRule

from bitfold.passes.canonicalize.rules import Rule, pass_over, scalar

_NEUTRAL = {"Add": 0.0, "Sub": 0.0, "Mul": 1.0, "Div": 1.0}


class DropIdentity(Rule):
    """``op(x, neutral)`` to ``x``, for the exact neutral scalar and an x of known rank."""

    def __init__(self, op_type: str, neutral_first: bool = False) -> None:
        super().__init__(f"{op_type} with its neutral element")
        self._op_type = op_type
        self._neutral_first = neutral_first

    def pattern(self, op: Any, x: Any, neutral: Any) -> Any:
        inputs = (neutral, x) if self._neutral_first else (x, neutral)
        return getattr(op, self._op_type)(*inputs)

    def check(self, context: Any, x: ir.Value, neutral: ir.Value, **_: Any) -> MatchResult:
        if scalar(neutral) != _NEUTRAL[self._op_type] or neutral.const_value is None:
            return pass_over()
        # A scalar of higher rank than x would give the result more axes.
        if x.shape is None or len(x.shape) < len(neutral.const_value.shape):
            return pass_over()
        return MatchResult()

    def rewrite(self, op: Any, x: ir.Value, **_: Any) -> Any:
        return op.Identity(x)


RULES: tuple[RewriteRule, ...] = (
    DropIdentity.rule("Add"),
    DropIdentity.rule("Add", True),
    DropIdentity.rule("Sub"),
    DropIdentity.rule("Mul"),
    DropIdentity.rule("Mul", True),
    DropIdentity.rule("Div"),
)
