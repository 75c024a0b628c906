"""Raise piecewise linear gates to HardSigmoid and HardSwish (Howard et al., arXiv 1905.02244)."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import MatchResult, RewriteRule

from bitfold.passes.canonicalize.matched import node_of
from bitfold.passes.canonicalize.raise_clip import number
from bitfold.passes.canonicalize.rules import Rule, decline, either, pass_over, scalar


def _relu6(op: Any, x: Any) -> Any:
    """``relu6(x + 3)``."""
    return op.Clip(either(op.Add, x, number(3.0)), number(0.0), number(6.0))


def _sixth(op: Any, form: int, value: Any) -> Any:
    """A sixth of a value in one of the ways to write it."""
    forms = (
        lambda: op.Div(value, number(6.0)),
        lambda: op.Mul(value, number(1 / 6)),
        lambda: op.Mul(number(1 / 6), value),
    )
    return forms[form]()


SIXTHS = 3


class FloatGate(Rule):
    """A gate of x alone; ONNX Runtime has its operator for float32 only."""

    def check(self, context: Any, x: ir.Value, **_: Any) -> MatchResult:
        if x.dtype != ir.DataType.FLOAT:
            return decline(f"{x.name} is {x.dtype}, not float", x)
        return MatchResult()


class RaiseHardSwish(FloatGate):
    """``x * relu6(x + 3)``, a sixth of it."""

    def __init__(self, form: int) -> None:
        super().__init__("HardSwish raised from relu6")
        self._form = form

    def pattern(self, op: Any, x: Any) -> Any:
        return _sixth(op, self._form, either(op.Mul, x, _relu6(op, x)))

    def rewrite(self, op: Any, x: ir.Value, **_: Any) -> Any:
        return op.HardSwish(x)


class RaiseEarlyHardSwish(FloatGate):
    """A sixth of x, times ``relu6(x + 3)``."""

    def __init__(self, form: int, sixth_first: bool) -> None:
        super().__init__("HardSwish raised from relu6")
        self._form = form
        self._sixth_first = sixth_first

    def pattern(self, op: Any, x: Any) -> Any:
        sixth, gate = _sixth(op, self._form, x), _relu6(op, x)
        return op.Mul(sixth, gate) if self._sixth_first else op.Mul(gate, sixth)

    def rewrite(self, op: Any, x: ir.Value, **_: Any) -> Any:
        return op.HardSwish(x)


class RaiseRelu6Gate(FloatGate):
    """A sixth of ``relu6(x + 3)`` to HardSigmoid."""

    def __init__(self, form: int) -> None:
        super().__init__("HardSigmoid raised from relu6")
        self._form = form

    def pattern(self, op: Any, x: Any) -> Any:
        return _sixth(op, self._form, _relu6(op, x))

    def rewrite(self, op: Any, x: ir.Value, **_: Any) -> Any:
        return op.HardSigmoid(x, alpha=1 / 6, beta=0.5)


class RaiseHardSigmoid(Rule):
    """``Clip(alpha * x + beta, 0, 1)`` and ``Clip(x / d + beta, 0, 1)``."""

    def __init__(self, divided: bool) -> None:
        super().__init__("HardSigmoid raised from its clipped line")
        self._divided = divided

    def pattern(self, op: Any, x: Any, factor: Any, beta: Any) -> Any:
        scaled = op.Div(x, factor) if self._divided else op.Mul(x, factor)
        return op.Clip(either(op.Add, scaled, beta), number(0.0), number(1.0))

    def check(
        self, context: Any, x: ir.Value, factor: ir.Value, beta: ir.Value, **_: Any
    ) -> MatchResult:
        alpha = self._alpha(x, factor)
        if alpha is None or scalar(beta) is None:
            return pass_over()
        line = factor if scalar(x) is not None else x
        if line.shape is None or line.dtype != ir.DataType.FLOAT:
            return decline(f"the shape or type of {line.name} is not known", line)
        return MatchResult()

    def rewrite(self, op: Any, x: ir.Value, factor: ir.Value, beta: ir.Value, **_: Any) -> Any:
        line = factor if scalar(x) is not None else x
        return op.HardSigmoid(line, alpha=self._alpha(x, factor), beta=scalar(beta))

    def _alpha(self, x: ir.Value, factor: ir.Value) -> float | None:
        """The slope; a product may have its constant first."""
        known = scalar(factor)
        if self._divided:
            return 1 / known if known else None
        return known if known is not None else scalar(x)


class RaiseGatedHardSwish(Rule):
    """``x * HardSigmoid(x)`` with slope 1/6 and offset 1/2."""

    def __init__(self, gate_first: bool) -> None:
        super().__init__("HardSwish raised from x * HardSigmoid(x)")
        self._gate_first = gate_first

    def pattern(self, op: Any, x: Any) -> Any:
        gate = op.HardSigmoid(x, _allow_other_attributes=True, _outputs=["gate"])
        return op.Mul(gate, x) if self._gate_first else op.Mul(x, gate)

    def check(self, context: Any, gate: ir.Value, **_: Any) -> MatchResult:
        node = node_of(gate)
        slope = node.attributes.get_float("alpha", 0.2)
        offset = node.attributes.get_float("beta", 0.5)
        if abs(slope - 1 / 6) > 1e-6 or abs(offset - 0.5) > 1e-6:
            return pass_over()  # another gate, as good as it is
        return MatchResult()

    def rewrite(self, op: Any, x: ir.Value, **_: Any) -> Any:
        return op.HardSwish(x)


RULES: tuple[RewriteRule, ...] = (
    *(RaiseHardSwish.rule(form) for form in range(SIXTHS)),
    *(RaiseEarlyHardSwish.rule(form, first) for form in range(SIXTHS) for first in (False, True)),
    *(RaiseRelu6Gate.rule(form) for form in range(SIXTHS)),
    RaiseHardSigmoid.rule(True),
    RaiseHardSigmoid.rule(False),
)

GATED_RULES: tuple[RewriteRule, ...] = tuple(map(RaiseGatedHardSwish.rule, (False, True)))
"""Applied after the others, which make the gates."""
