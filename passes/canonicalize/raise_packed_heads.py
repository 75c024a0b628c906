"""Bring a projection that holds query, key and value to its normal form: Split, then heads."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import MatchResult, RewriteRule
from onnxscript.rewriter.pattern import OrValue

from bitfold.passes.canonicalize.rules import Rule, decline, ints, pass_over


class RaisePackedHeads(Rule):
    """The i-th of several projections that one makes, to the i-th output of a Split.

    Vision transformers write ``Transpose(Reshape(x, [batch, sequence, 3, heads, head]), [2, 0, 3,
    1, 4])`` and take the i-th by Gather, or by Slice and Squeeze; PyTorch's multi-head attention
    writes the same without heads.  The i-th is the i-th part of x's last axis, so it becomes
    ``Transpose(Reshape(Split(x)[i]), [0, 2, 1, 3])``, the form that separate projections have.
    Declined: sizes that are not known, an axis that is not the first that x's last one is cut to.
    """

    def __init__(self, sliced: bool) -> None:
        # One Transpose serves all parts: it goes when the last of them is raised.
        super().__init__("Transpose raised from packed heads", remove_nodes=False)
        self._sliced = sliced

    def pattern(
        self, op: Any, x: Any, shape: Any, index: Any, end: Any, axis: Any, gone: Any
    ) -> Any:
        parts = op.Reshape(x, shape, _allow_other_attributes=True, _outputs=["parts"])
        turned = op.Transpose(parts, _allow_other_attributes=True, _outputs=["turned"])
        if not self._sliced:
            return op.Gather(turned, index, axis=0)
        step = OrValue([op.Slice(turned, index, end, axis, 1), op.Slice(turned, index, end, axis)])
        return op.Squeeze(step, gone)

    def check(
        self,
        context: Any,
        x: ir.Value,
        parts: ir.Value,
        turned: ir.Value,
        index: ir.Value,
        **found: Any,
    ) -> MatchResult:
        number = ints(index)
        if parts.shape is None or x.shape is None or len(parts.shape) < len(x.shape) + 1:
            return pass_over()
        packed = len(x.shape) - 1
        if _perm(turned)[:1] != [packed]:
            return pass_over()  # another axis: no packed projections
        count = parts.shape[packed]
        if number is None or len(number) != 1 or not isinstance(count, int):
            return decline("which of the packed heads is taken is not known", index)
        if self._sliced:
            if any(ints(found[name]) != [0] for name in ("axis", "gone")):
                return pass_over()
            if ints(found["end"]) != [number[0] + 1]:
                return decline("a slice of packed heads holds more than one", found["end"])
        elif index.shape is None or len(index.shape):
            return decline("what is taken is not a scalar", index)
        if not -count <= number[0] < count:
            return decline("what is taken is not among the packed heads", index)
        rest = list(parts.shape[packed:])
        width = x.shape[packed]
        if not all(isinstance(each, int) for each in [*rest, width]):
            return decline("the packed heads are not of known size", parts)
        leading = list(parts.shape[:packed]) == list(x.shape[:packed])
        size = 1
        for each in rest:
            size *= int(each)
        if size != width or not leading:
            return decline("the reshape does not cut the last axis alone", parts)
        return MatchResult()

    def rewrite(
        self, op: Any, x: ir.Value, parts: ir.Value, turned: ir.Value, index: ir.Value, **_: Any
    ) -> Any:
        number = ints(index)
        assert number is not None  # check looked
        assert parts.shape is not None
        assert x.shape is not None
        packed = len(x.shape) - 1
        count = int(parts.shape[packed])
        split = op.Split(x, num_outputs=count, axis=-1, _outputs=count)
        part = split[number[0] % count]
        inner = [int(each) for each in parts.shape[packed + 1 :]]
        part = op.Reshape(part, op.Constant(value_ints=[0] * packed + inner))
        perm = [each - (each > packed) for each in _perm(turned)[1:]]
        return op.Transpose(part, perm=perm)


def _perm(turned: ir.Value) -> list[int]:
    node = turned.producer()
    return list(node.attributes.get_ints("perm", [])) if node is not None else []


RULES: tuple[RewriteRule, ...] = (RaisePackedHeads.rule(False), RaisePackedHeads.rule(True))
