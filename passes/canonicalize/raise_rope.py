"""Raise decomposed rotary embedding (Su et al., 2021) to RotaryEmbedding-23."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import MatchResult, RewriteRule
from onnxscript.rewriter.pattern import OrValue, Var

from bitfold.passes.canonicalize.rules import Rule, decline, either, ints, scalar


class RaiseRope(Rule):
    """``x * cos + rotate_half(x) * sin`` of a [batch, heads, sequence, head] tensor.

    cos and sin are those of angles f32[batch, sequence, head/2], written twice side by side; an
    attention scaling may multiply them.  The new node reads the cosine and sine of the angles
    themselves, so nothing is assumed about positions.  Declined: halves that do not meet in the
    middle, cos and sin of different angles, an input whose head size is unknown.
    """

    def __init__(self, cos_first: bool) -> None:
        # The pieces of cos and sin serve every layer: they go when the last one is raised.
        super().__init__("RotaryEmbedding raised from its rotate-half form", remove_nodes=False)
        self._cos_first = cos_first

    def pattern(self, op: Any, x: Any, angles: Any, cos_scale: Any, sin_scale: Any) -> Any:
        both = op.Concat(angles, angles, axis=-1)
        cos, sin = op.Cos(both), op.Sin(both)
        cos = OrValue([cos, either(op.Mul, cos, cos_scale)])
        sin = OrValue([sin, either(op.Mul, sin, sin_scale)])
        cos = op.Unsqueeze(cos, _axes("cos_axes"))
        sin = op.Unsqueeze(sin, _axes("sin_axes"))
        first = op.Slice(x, _axes("start1"), _axes("end1"), _axes("axes1"), _axes("steps1"))
        second = op.Slice(x, _axes("start2"), _axes("end2"), _axes("axes2"), _axes("steps2"))
        turned = op.Concat(op.Neg(second), first, axis=-1)
        straight, crossed = either(op.Mul, x, cos), either(op.Mul, turned, sin)
        return op.Add(straight, crossed) if self._cos_first else op.Add(crossed, straight)

    def check(self, context: Any, x: ir.Value, **found: Any) -> MatchResult:
        for name in ("cos_axes", "sin_axes"):
            if ints(found[name]) not in ([1], [-3]):
                return decline("cos or sin is not broadcast over axis 1, the heads", found[name])
        shape = x.shape
        if shape is None or len(shape) != 4 or not isinstance(shape[3], int):
            return decline("its input is not known as [batch, heads, sequence, head]", x)
        head = shape[3]
        if head % 2:
            return decline(f"the head size {head} is odd", x)
        for name in ("steps1", "steps2", "axes1", "axes2"):
            wanted = ([1],) if name.startswith("steps") else ([3], [-1])
            # steps may be left out; axes may not, or the slice would be of axis 0.
            missing = found.get(name) is None and name.startswith("steps")
            if not missing and ints(found.get(name)) not in wanted:
                return decline("a half is not a plain slice of the last axis", found.get(name))
        end = ints(found["end2"])
        meets = ints(found["start1"]) == [0] and ints(found["start2"]) == [head // 2]
        meets = meets and ints(found["end1"]) in ([head // 2], [-head // 2])
        if not meets or end is None or len(end) != 1 or end[0] < head:
            return decline("the head is not cut in two equal halves", found["end1"])
        for name in ("cos_scale", "sin_scale"):
            if found.get(name) is not None and scalar(found[name]) is None:
                return decline("what scales cos or sin is not a constant scalar", found[name])
        return MatchResult()

    def rewrite(
        self,
        op: Any,
        x: ir.Value,
        angles: ir.Value,
        cos_scale: ir.Value | None = None,
        sin_scale: ir.Value | None = None,
        **_: Any,
    ) -> Any:
        cos, sin = op.Cos(angles), op.Sin(angles)
        if cos_scale is not None:
            cos = op.Mul(cos, cos_scale)
        if sin_scale is not None:
            sin = op.Mul(sin, sin_scale)
        return op.RotaryEmbedding(x, cos, sin, interleaved=0)


def _axes(name: str) -> Any:
    return Var(name, can_match_none=name.startswith("steps"))


RULES: tuple[RewriteRule, ...] = (RaiseRope.rule(True), RaiseRope.rule(False))
