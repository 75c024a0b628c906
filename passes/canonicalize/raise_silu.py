"""Bring SiLU (Elfwing et al., 2018) to its normal form ``x * Sigmoid(x)``.

The normal form stays two nodes: opset 24's Swish is not in opset 23, and its kernels are not
complete.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import MatchResult, RewriteRule

from bitfold.passes.canonicalize.rules import Rule, decline, either, is_scalar


class RaiseSilu(Rule):
    """``x / (1 + exp(-x))`` to ``x * Sigmoid(x)``."""

    def __init__(self) -> None:
        super().__init__("Mul raised to x * Sigmoid(x) from its exponential form")

    def pattern(self, op: Any, x: Any, one: Any) -> Any:
        return op.Div(x, either(op.Add, op.Exp(op.Neg(x)), one))

    def check(self, context: Any, one: ir.Value, **_: Any) -> MatchResult:
        return MatchResult() if is_scalar(one, 1) else decline("the addend is not 1", one)

    def rewrite(self, op: Any, x: ir.Value, **_: Any) -> Any:
        return op.Mul(x, op.Sigmoid(x))


class OrderSilu(Rule):
    """``Sigmoid(x) * x`` to ``x * Sigmoid(x)``."""

    def __init__(self) -> None:
        super().__init__("Mul put in the order x * Sigmoid(x)")

    def pattern(self, op: Any, x: Any) -> Any:
        return op.Mul(op.Sigmoid(x, _outputs=["gate"]), x)

    def rewrite(self, op: Any, x: ir.Value, **_: Any) -> Any:
        return op.Mul(x, op.Sigmoid(x))


RULES: tuple[RewriteRule, ...] = (RaiseSilu.rule(), OrderSilu.rule())
