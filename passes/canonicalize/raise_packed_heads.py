"""Bring a projection that holds query, key and value to its normal form: Split, then heads."""

from __future__ import annotations

import math
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

    def __init__(self, taken: str, part: tuple[int, int] | None = None) -> None:
        # One Transpose serves all parts: it goes when the last of them is raised.
        super().__init__("Transpose raised from packed heads", remove_nodes=False)
        self._taken, self._part = taken, part

    def pattern(
        self, op: Any, x: Any, shape: Any, index: Any, end: Any, axis: Any, gone: Any
    ) -> Any:
        parts = op.Reshape(x, shape, _allow_other_attributes=True, _outputs=["parts"])
        turned = op.Transpose(parts, _allow_other_attributes=True, _outputs=["turned"])
        if self._taken == "gather":
            return op.Gather(turned, index, axis=0)
        if self._part is not None:
            count, number = self._part
            outputs = [f"part{i}" for i in range(count)]
            options = {"_allow_other_inputs": True, "_allow_other_attributes": True}
            return op.Squeeze(op.Split(turned, _outputs=outputs, **options)[number], gone)
        step = OrValue([op.Slice(turned, index, end, axis, 1), op.Slice(turned, index, end, axis)])
        return op.Squeeze(step, gone)

    def check(
        self, context: Any, x: ir.Value, parts: ir.Value, turned: ir.Value, **found: Any
    ) -> MatchResult:
        if parts.shape is None or x.shape is None or len(parts.shape) < len(x.shape) + 1:
            return pass_over()
        packed = len(x.shape) - 1
        if _perm(turned)[:1] != [packed]:
            return pass_over()  # another axis: no packed projections
        count = parts.shape[packed]
        number = self._number(found)
        if number is None or not isinstance(count, int) or not -count <= number < count:
            return decline("which of the packed heads is taken is not known", turned)
        rest = list(parts.shape[packed:])
        width = x.shape[packed]
        sizes = [each for each in rest if isinstance(each, int)]
        if len(sizes) < len(rest) or not isinstance(width, int):
            return decline("the packed heads are not of known size", parts)
        leading = list(parts.shape[:packed]) == list(x.shape[:packed])
        if math.prod(sizes) != width or not leading:
            return decline("the reshape does not cut the last axis alone", parts)
        return MatchResult()

    def _number(self, found: dict[str, Any]) -> int | None:
        """Which part is taken, and alone."""
        if self._taken == "gather":
            number = ints(found["index"])
            scalar = found["index"].shape is not None and not len(found["index"].shape)
            return number[0] if number and scalar else None
        if ints(found["gone"]) != [0]:
            return None
        if self._part is not None:
            node = found["part0"].producer()
            sizes = [found[f"part{i}"].shape for i in range(self._part[0])]
            alone = all(size is not None and size[0] == 1 for size in sizes)
            return self._part[1] if alone and node.attributes.get_int("axis", 0) == 0 else None
        start, end = ints(found["index"]), ints(found["end"])
        if not start or not end or ints(found["axis"]) != [0] or end != [start[0] + 1]:
            return None
        return start[0]

    def rewrite(self, op: Any, x: ir.Value, parts: ir.Value, turned: ir.Value, **found: Any) -> Any:
        number = self._number(found)
        assert number is not None  # check looked
        assert parts.shape is not None
        assert x.shape is not None
        packed = len(x.shape) - 1
        count, *inner = [each for each in parts.shape[packed:] if isinstance(each, int)]
        split = op.Split(x, num_outputs=count, axis=-1, _outputs=count)
        part = split[number % count]
        part = op.Reshape(part, op.Constant(value_ints=[0] * packed + inner))
        perm = [each - (each > packed) for each in _perm(turned)[1:]]
        return op.Transpose(part, perm=perm)


def _perm(turned: ir.Value) -> list[int]:
    node = turned.producer()
    return list(node.attributes.get_ints("perm", [])) if node is not None else []


RULES: tuple[RewriteRule, ...] = (
    RaisePackedHeads.rule("gather"),
    RaisePackedHeads.rule("slice"),
    *(RaisePackedHeads.rule("split", (count, i)) for count in (2, 3) for i in range(count)),
)
