"""Bring transposes that are written with reshapes around them to one Transpose."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import MatchResult, RewriteRule

from bitfold.passes.canonicalize.rules import Rule, ints, pass_over


class RaiseBatchedTranspose(Rule):
    """``Reshape(Transpose(Reshape(x, [-1, a, b]), [0, 2, 1]), [..., b, a])`` to one Transpose.

    PyTorch's exporter transposes the last two axes of a key in this way.
    """

    def __init__(self) -> None:
        super().__init__("Transpose raised from its flattened form")

    def pattern(self, op: Any, x: Any, flat: Any, wide: Any) -> Any:
        matrices = op.Reshape(x, flat, _allow_other_attributes=True, _outputs=["matrices"])
        turned = op.Transpose(matrices, perm=[0, 2, 1])
        return op.Reshape(turned, wide, _allow_other_attributes=True, _outputs=["out"])

    def check(
        self, context: Any, x: ir.Value, matrices: ir.Value, out: ir.Value, **_: Any
    ) -> MatchResult:
        shapes = [value.shape for value in (x, matrices, out)]
        if any(shape is None for shape in shapes):
            return pass_over()
        before, between, after = (list(shape) for shape in shapes if shape is not None)
        swapped = [*before[:-2], *before[:-3:-1]]
        known = all(isinstance(dim, int) or dim.value is not None for dim in before)
        if len(between) != 3 or between[-2:] != before[-2:] or after != swapped or not known:
            return pass_over()
        return MatchResult()

    def rewrite(self, op: Any, x: ir.Value, **_: Any) -> Any:
        assert x.shape is not None  # check looked
        axes = list(range(len(x.shape)))
        return op.Transpose(x, perm=[*axes[:-2], axes[-1], axes[-2]])


class RaiseUnsqueezedTranspose(Rule):
    """``Squeeze(Transpose(Unsqueeze(x, i), perm), j)`` to one Transpose, if i becomes j.

    PyTorch's multi-head attention moves the axis of query, key and value to the front so.
    """

    def __init__(self) -> None:
        super().__init__("Transpose raised from its unsqueezed form")

    def pattern(self, op: Any, x: Any, new: Any, old: Any) -> Any:
        wide = op.Unsqueeze(x, new)
        turned = op.Transpose(wide, _allow_other_attributes=True, _outputs=["turned"])
        return op.Squeeze(turned, old)

    def check(self, context: Any, **found: Any) -> MatchResult:
        return MatchResult() if _without_new_axis(**found) is not None else pass_over()

    def rewrite(self, op: Any, x: ir.Value, **found: Any) -> Any:
        return op.Transpose(x, perm=_without_new_axis(x=x, **found))


def _without_new_axis(
    x: ir.Value, new: ir.Value, old: ir.Value, turned: ir.Value, **_: Any
) -> list[int] | None:
    """The permutation of x's own axes; None where the new axis is not the one that goes."""
    node, added, dropped = turned.producer(), ints(new), ints(old)
    if node is None or added is None or dropped is None or len(added) != 1 or len(dropped) != 1:
        return None
    perm = list(node.attributes.get_ints("perm", []))
    if not perm:
        return None
    axis, place = added[0] % len(perm), dropped[0] % len(perm)
    if perm[place] != axis:
        return None
    return [each - (each > axis) for each in perm if each != axis]


RULES: tuple[RewriteRule, ...] = (RaiseBatchedTranspose.rule(), RaiseUnsqueezedTranspose.rule())
