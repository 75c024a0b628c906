"""Bring a projection that holds query, key and value to its normal form: Split, then heads."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import MatchResult, RewriteRule

from bitfold.passes.canonicalize.rules import Rule, decline, ints

COUNT = 3


class RaisePackedHeads(Rule):
    """``Transpose(Reshape(x, [batch, sequence, 3, heads, head]), [2, 0, 3, 1, 4])[i]``.

    Vision transformers take query, key and value from one projection in this way.  The i-th is
    the i-th third of x's last axis, so it becomes ``Transpose(Reshape(Split(x)[i]), [0, 2, 1,
    3])``, the form that separate projections have.  Declined: sizes that are not known.
    """

    def __init__(self) -> None:
        # One Transpose serves all three: it goes when the last of them is raised.
        super().__init__("Transpose raised from packed heads", remove_nodes=False)

    def pattern(self, op: Any, x: Any, shape: Any, index: Any) -> Any:
        parts = op.Reshape(x, shape, _allow_other_attributes=True, _outputs=["parts"])
        return op.Gather(op.Transpose(parts, perm=[2, 0, 3, 1, 4]), index, axis=0)

    def check(
        self, context: Any, x: ir.Value, parts: ir.Value, index: ir.Value, **_: Any
    ) -> MatchResult:
        number = ints(index)
        if number is None or len(number) != 1 or not -COUNT <= number[0] < COUNT:
            return decline("what is taken is not a constant", index)
        if index.shape is None or len(index.shape):
            return decline("what is taken is not a scalar", index)
        if parts.shape is None or len(parts.shape) != 5 or x.shape is None or len(x.shape) != 3:
            return decline("the shapes around the packed heads are not known", x, parts)
        count, heads, head = parts.shape[2:5]
        if count != COUNT or not isinstance(heads, int) or not isinstance(head, int):
            return decline("the packed heads are not 3 of known size", parts)
        if x.shape[2] != COUNT * heads * head:
            return decline("the reshape does not cut the last axis alone", parts)
        return MatchResult()

    def rewrite(self, op: Any, x: ir.Value, parts: ir.Value, index: ir.Value, **_: Any) -> Any:
        number = ints(index)
        assert number is not None  # check looked
        assert parts.shape is not None
        heads, head = parts.shape[3:5]
        thirds = op.Split(x, num_outputs=COUNT, axis=-1, _outputs=COUNT)
        part = op.Reshape(thirds[number[0]], op.Constant(value_ints=[0, 0, heads, head]))
        return op.Transpose(part, perm=[0, 2, 1, 3])


RULES: tuple[RewriteRule, ...] = (RaisePackedHeads.rule(),)
