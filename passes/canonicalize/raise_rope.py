"""Raise decomposed rotary embedding (Su et al., 2021) to RotaryEmbedding-23."""

from __future__ import annotations

from itertools import product
from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import MatchResult, RewriteRule
from onnxscript.rewriter.pattern import Var

from bitfold.passes.canonicalize.rotary_tables import Build, halved, unsqueezed_at
from bitfold.passes.canonicalize.rules import Rule, decline, either, ints, last_dim


class RaiseRope(Rule):
    """A rotation of pairs of channels, in any of the forms that exporters and models write.

    ``turned``: ``x * cos + turn(x) * sin``, where turn swaps the members of each pair and negates
    the new first one, and cos and sin hold everything twice.  Otherwise ``a * cos - b * sin``
    beside ``b * cos + a * sin`` for the first and second members a and b.  A pair is two channels
    half a head apart, or neighbours.

    The new node reads cosines and sines [batch, sequence, head / 2] that the graph's own are cut
    down to, so nothing is assumed about positions.  x is [batch, heads, sequence, head] or [batch,
    sequence, heads, head]: the axis over which the tables broadcast is the heads'.

    Declined: members that are not cut out plainly, tables that are not seen to be the same for
    both members, or that do not broadcast over one axis.
    """

    def __init__(self, turned: bool, neighbours: bool, split: bool, order: tuple[int, int]) -> None:
        form = "interleaved" if neighbours else "rotate-half"
        # What makes the tables serves every layer: it goes when the last one is raised.
        super().__init__(f"RotaryEmbedding raised from its {form} form", remove_nodes=False)
        self._turned, self._neighbours, self._split, self._order = turned, neighbours, split, order

    def pattern(self, op: Any, x: Any, cos: Any, sin: Any) -> Any:
        if self._split:
            first, second = op.Split(x, _allow_other_inputs=True, _outputs=["half1", "half2"])
        else:
            first = op.Slice(x, *_slice("1"), _outputs=["half1"])
            second = op.Slice(x, *_slice("2"), _outputs=["half2"])
        if self._turned:
            turned = self._join(op, op.Neg(second), first)
            crossed = either(op.Mul, turned, sin)
            # The matcher takes x from the first product it meets, so each order is a rule.
            straight = op.Mul(cos, x) if self._order[0] else op.Mul(x, cos)
            return op.Add(straight, crossed) if self._order[1] else op.Add(crossed, straight)
        one = op.Sub(either(op.Mul, first, cos), either(op.Mul, second, sin))
        straight, crossed = either(op.Mul, second, cos), either(op.Mul, first, sin)
        other = op.Add(straight, crossed) if self._order[1] else op.Add(crossed, straight)
        return self._join(op, one, other)

    def _join(self, op: Any, first: Any, second: Any) -> Any:
        if not self._neighbours:
            return op.Concat(first, second, axis=-1)
        last = [op.Unsqueeze(each, Var(f"new{i}")) for i, each in enumerate((first, second))]
        pairs = op.Concat(*last, axis=-1, _outputs=["pairs"])
        return op.Reshape(pairs, Var("flat"), _allow_other_attributes=True, _outputs=["joined"])

    def check(
        self, context: Any, x: ir.Value, cos: ir.Value, sin: ir.Value, **found: Any
    ) -> MatchResult:
        head = last_dim(x)
        if x.shape is None or len(x.shape) != 4 or head is None:
            return decline("its input is not known as [batch, heads, sequence, head]", x)
        if head % 2:
            return decline(f"the head size {head} is odd", x)
        reason = self._cut(head, found) or self._joined(x, found)
        if reason:
            return decline(reason, found["half1"])
        plans = [self._table(table, x, head) for table in (cos, sin)]
        if any(isinstance(plan, str) for plan in plans):
            return decline(next(plan for plan in plans if isinstance(plan, str)), cos, sin)
        if plans[0][0] != plans[1][0]:
            return decline("cos and sin broadcast over different axes", cos, sin)
        return MatchResult()

    def _cut(self, head: int, found: dict[str, Any]) -> str:
        """Why the members of the pairs are not plain cuts of x; empty if they are."""
        if self._split:
            halves = [last_dim(found[name]) for name in ("half1", "half2")]
            axis = found["half1"].producer().attributes.get_int("axis", 0)
            plain = halves == [head // 2] * 2 and axis in (-1, 3) and not self._neighbours
            return "" if plain else "the head is not cut in two equal halves"
        bounds = []
        for number in "12":
            start, end, axes, steps = (
                ints(found.get(f"{name}{number}")) for name in ("start", "end", "axes", "steps")
            )
            if axes not in ([3], [-1]) or start is None or end is None or len(start + end) != 2:
                return "a half is not a plain slice of the last axis"
            if steps is None and found.get(f"steps{number}") is not None:
                return "a half is not a plain slice of the last axis"
            stop = end[0] + head if end[0] < 0 else min(end[0], head)
            bounds.append((start[0], stop, (steps or [1])[0]))
        if self._neighbours:
            wanted = [[(0, head, 2), (1, head, 2)], [(0, head - 1, 2), (1, head, 2)]]
            return "" if bounds in wanted else "the head is not cut into even and odd channels"
        wanted = [[(0, head // 2, 1), (head // 2, head, 1)]]
        return "" if bounds in wanted else "the head is not cut in two equal halves"

    def _joined(self, x: ir.Value, found: dict[str, Any]) -> str:
        """Why the pairs are not put together as they were; empty if they are."""
        if not self._neighbours:
            return ""
        for name in ("new0", "new1"):
            if ints(found[name]) not in ([-1], [4]):
                return "the pairs are not joined along a new last axis"
        joined = found["joined"].shape
        if joined is None or list(joined) != list(x.shape or ()):
            return "the pairs are not put back where they were"
        return ""

    def _table(self, table: ir.Value, x: ir.Value, head: int) -> tuple[int, Build] | str:
        """The heads' axis, and what builds the table [batch, sequence, head / 2]; or why not."""
        if table.shape is None or not 2 <= len(table.shape) <= 4:
            return "the shape of cos or sin is not known"
        size = head if self._turned else head // 2
        if last_dim(table) != size:
            return "cos or sin is not as wide as what it multiplies"
        padded = [1] * (4 - len(table.shape)) + list(table.shape)
        axes = [axis for axis in (1, 2) if padded[axis] == 1 and x.shape and x.shape[axis] != 1]
        if padded[1] == 1 and padded[2] != 1:
            axes = [1]
        if len(axes) != 1:
            return "cos or sin is not broadcast over one axis, the heads"
        axis = axes[0]
        place = axis - (4 - len(table.shape))
        inner = unsqueezed_at(table, place) if place >= 0 else table
        build = self._half(table if inner is None else inner)
        if build is None:
            return "cos and sin are not known to be the same for both members of a pair"
        return axis, _without_heads(build, place if inner is None else -1)

    def _half(self, table: ir.Value) -> Build | None:
        if not self._turned:
            return lambda op: table
        return halved(table, self._neighbours)

    def rewrite(self, op: Any, x: ir.Value, cos: ir.Value, sin: ir.Value, **_: Any) -> Any:
        head = last_dim(x)
        assert head is not None  # check looked
        tables = []
        axis = 1
        for table in (cos, sin):
            plan = self._table(table, x, head)
            assert not isinstance(plan, str)
            axis, build = plan
            built = build(op)
            if not _fits(table, x, axis):
                steps = op.Shape(x, start=3 - axis, end=4 - axis)
                one = op.Constant(value_ints=[1])
                built = op.Expand(built, op.Concat(op.Shape(x, start=0, end=1), steps, one, axis=0))
            tables.append(built)
        interleaved = int(self._neighbours)
        if axis == 1:
            return op.RotaryEmbedding(x, *tables, interleaved=interleaved)
        swapped = op.Transpose(x, perm=[0, 2, 1, 3])
        rotated = op.RotaryEmbedding(swapped, *tables, interleaved=interleaved)
        return op.Transpose(rotated, perm=[0, 2, 1, 3])


def _without_heads(build: Build, place: int) -> Build:
    """The table without the heads' axis, where it still has one."""
    if place < 0:
        return build
    return lambda op: op.Squeeze(build(op), op.Constant(value_ints=[place]))


def _fits(table: ir.Value, x: ir.Value, axis: int) -> bool:
    """Whether the table has x's batch and sequence: the op does not broadcast."""
    if table.shape is None or x.shape is None or len(table.shape) not in (3, 4):
        return False
    other = 3 - axis
    if len(table.shape) == 3:
        # [batch, sequence, head] never meets x alone: its first axis would be x's second.
        return False
    pairs = [(table.shape[each], x.shape[each]) for each in (0, other)]
    return all(a == b and (isinstance(a, int) or a.value is not None) for a, b in pairs)


class RaisePartialRope(Rule):
    """``Concat(RotaryEmbedding(x[..., :r]), x[..., r:])`` to a rotation of the first r channels."""

    def __init__(self) -> None:
        super().__init__("RotaryEmbedding raised from the part that it rotates")

    def pattern(self, op: Any, x: Any, cos: Any, sin: Any) -> Any:
        first = op.Slice(x, *_slice("1"), _outputs=["half1"])
        second = op.Slice(x, *_slice("2"), _outputs=["half2"])
        rotated = op.RotaryEmbedding(
            first, cos, sin, _allow_other_attributes=True, _outputs=["rotated"]
        )
        return op.Concat(rotated, second, axis=-1)

    def check(self, context: Any, x: ir.Value, half1: ir.Value, **found: Any) -> MatchResult:
        part, head = last_dim(half1), last_dim(x)
        node = found["rotated"].producer()
        if node is None or node.attributes.get_int("rotary_embedding_dim", 0):
            return decline("a part of the part is rotated", half1)
        if part is None or head is None or not part < head:
            return decline("the rotated part is not of known size", half1)
        for number, (start, end) in (("1", (0, part)), ("2", (part, head))):
            bounds = [ints(found.get(f"{name}{number}")) for name in ("start", "end")]
            stop = bounds[1][0] if bounds[1] else 0
            stop = stop + head if stop < 0 else min(stop, head)
            steps = found.get(f"steps{number}")
            plain = steps is None or ints(steps) == [1]
            last = ints(found.get(f"axes{number}")) in ([-1], [3])
            if not plain or not last or bounds[0] != [start] or stop != end:
                return decline("the rotated part is not the first channels", half1)
        return MatchResult()

    def rewrite(
        self,
        op: Any,
        x: ir.Value,
        cos: ir.Value,
        sin: ir.Value,
        half1: ir.Value,
        rotated: ir.Value,
        **_: Any,
    ) -> Any:
        node = rotated.producer()
        assert node is not None  # the pattern matched it
        return op.RotaryEmbedding(
            x,
            cos,
            sin,
            interleaved=node.attributes.get_int("interleaved", 0),
            rotary_embedding_dim=last_dim(half1),
        )


def _slice(number: str) -> list[Any]:
    """The inputs of a Slice behind its data, named for this half."""
    names = ("start", "end", "axes", "steps")
    return [Var(f"{name}{number}", can_match_none=name == "steps") for name in names]


_FORMS = [
    # (turned, neighbours, split)
    (True, False, False),
    (True, False, True),
    (True, True, False),
    (False, False, False),
    (False, False, True),
    (False, True, False),
]
RULES: tuple[RewriteRule, ...] = tuple(
    RaiseRope.rule(*form, order)
    for form in _FORMS
    for order in (product((0, 1), (0, 1)) if form[0] else ((0, 0), (0, 1)))
)
PARTIAL_RULES: tuple[RewriteRule, ...] = (RaisePartialRope.rule(),)
