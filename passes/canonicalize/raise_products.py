"""Bring products with a constant to the side where the weight is on the right: ``x W``."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import MatchResult, RewriteRule

from bitfold.passes.analysis.conv_shape import stays_on_pixels
from bitfold.passes.analysis.sites import input_at
from bitfold.passes.canonicalize.matched import array_of, constant_named, node_of, weight_dims
from bitfold.passes.canonicalize.rules import Rule, decline, ints, pass_over


class LeftWeight(Rule):
    """``W x`` to ``(xᵀ Wᵀ)ᵀ``, where a Transpose before or behind it makes that free."""

    def __init__(self, behind: bool) -> None:
        super().__init__("MatMul with its weight on the right", remove_nodes=False)
        self._behind = behind

    def pattern(self, op: Any, x: Any, weight: Any) -> Any:
        if self._behind:
            product = op.MatMul(weight, x)
            return op.Transpose(product, _allow_other_attributes=True, _outputs=["turned"])
        turned = op.Transpose(x, _allow_other_attributes=True, _outputs=["turned"])
        return op.MatMul(weight, turned)

    def check(
        self, context: Any, x: ir.Value, weight: ir.Value, turned: ir.Value, **_: Any
    ) -> MatchResult:
        dims = weight_dims(weight)
        if dims is None or len(dims) != 2:
            return pass_over()
        if x.shape is None or len(x.shape) < 2:
            return decline(f"the rank of {x.name} is not known", x)
        node = node_of(turned)
        product = node.inputs[0]
        if self._behind and (product is None or len(product.uses()) > 1):
            return decline("others read the product too", product)
        swapped = _swapped(len(x.shape))
        if list(node.attributes.get_ints("perm", swapped[: len(x.shape)])) != swapped:
            return decline("the Transpose beside it does not swap the last two axes", turned)
        if len(x.shape) > 2 and "perm" not in node.attributes:
            return decline("the Transpose beside it turns all axes around", turned)
        return MatchResult()

    def rewrite(self, op: Any, x: ir.Value, weight: ir.Value, **_: Any) -> Any:
        assert x.shape is not None, "checked"
        swapped = _swapped(len(x.shape))
        right = op.Transpose(weight, perm=[1, 0])
        if self._behind:
            return op.MatMul(op.Transpose(x, perm=swapped), right)
        return op.Transpose(op.MatMul(x, right), perm=swapped)


def _swapped(rank: int) -> list[int]:
    """The permutation that swaps the last two of ``rank`` axes."""
    return [*range(rank - 2), rank - 1, rank - 2]


class PointwiseConv(Rule):
    """A 1x1 Conv between Transposes from and to channels-last: MatMul on the last axis."""

    def __init__(self) -> None:
        super().__init__("MatMul raised from a 1x1 Conv of channels-last data", remove_nodes=False)

    def pattern(self, op: Any, x: Any, weight: Any) -> Any:
        first = op.Transpose(x, _allow_other_attributes=True, _outputs=["first"])
        conv = op.Conv(
            first, weight, _allow_other_inputs=True, _allow_other_attributes=True, _outputs=["conv"]
        )
        return op.Transpose(conv, _allow_other_attributes=True, _outputs=["last"])

    def check(
        self,
        context: Any,
        x: ir.Value,
        weight: ir.Value,
        first: ir.Value,
        conv: ir.Value,
        last: ir.Value,
        **_: Any,
    ) -> MatchResult:
        dims = weight_dims(weight)
        if dims is None:
            return pass_over()
        rank = len(dims)
        before, behind = node_of(first), node_of(last)
        to_first = [0, rank - 1, *range(1, rank - 1)]
        to_last = [0, *range(2, rank), 1]
        if list(before.attributes.get_ints("perm", [])) != to_first or (
            list(behind.attributes.get_ints("perm", [])) != to_last
        ):
            return pass_over()
        reason = plain_pointwise(conv)
        return decline(reason, conv) if reason else MatchResult()

    def rewrite(self, op: Any, x: ir.Value, weight: ir.Value, conv: ir.Value, **_: Any) -> Any:
        matrix = _matrix(op, weight)
        product = op.MatMul(x, op.Transpose(matrix, perm=[1, 0]))
        bias = input_at(node_of(conv), 2)
        return product if bias is None else op.Add(product, bias)


class PointwiseGemm(Rule):
    """A 1x1 Conv of a single pixel that is flattened behind it: Gemm of the flattened input."""

    def __init__(self) -> None:
        super().__init__("Gemm raised from a 1x1 Conv of one pixel", remove_nodes=False)

    def pattern(self, op: Any, x: Any, weight: Any, shape: Any) -> Any:
        conv = op.Conv(
            x, weight, _allow_other_inputs=True, _allow_other_attributes=True, _outputs=["conv"]
        )
        return op.Reshape(conv, shape, _allow_other_attributes=True, _outputs=["flat"])

    def check(
        self,
        context: Any,
        x: ir.Value,
        weight: ir.Value,
        shape: ir.Value,
        conv: ir.Value,
        flat: ir.Value,
        **_: Any,
    ) -> MatchResult:
        dims = weight_dims(weight)
        if dims is None:
            return pass_over()
        if x.shape is None or len(x.shape) < 3 or any(size != 1 for size in list(x.shape)[2:]):
            return pass_over()
        if ints(shape) not in ([-1, dims[0]], [0, dims[0]], [0, -1]):
            return pass_over()
        reason = plain_pointwise(conv)
        return decline(reason, conv) if reason else MatchResult()

    def rewrite(self, op: Any, x: ir.Value, weight: ir.Value, conv: ir.Value, **_: Any) -> Any:
        matrix = _matrix(op, weight)
        rows = op.Reshape(x, op.Constant(value_ints=[-1, array_of(weight).shape[1]]))
        bias = input_at(node_of(conv), 2)
        return op.Gemm(rows, matrix, *([] if bias is None else [bias]), transB=1)


def _matrix(op: Any, weight: ir.Value) -> Any:
    """The weight [N, K, 1, ...] as [N, K]."""
    array = array_of(weight)
    return constant_named(op, array.reshape(array.shape[:2]), f"{weight.name}.matrix")


def plain_pointwise(conv: ir.Value) -> str:
    """Why a Conv is no product of each pixel with one matrix, or an empty string."""
    node = node_of(conv)
    if len(conv.uses()) > 1 or conv.is_graph_output():
        return f"others read {conv.name} too"
    shape = node.inputs[1].shape if node.inputs[1] is not None else None
    if shape is None or any(size != 1 for size in list(shape)[2:]):
        return "its window is larger than 1"
    if node.attributes.get_int("group", 1) != 1:
        return "it has several groups"
    return "" if stays_on_pixels(node) else "it strides or pads"


RULES: tuple[RewriteRule, ...] = (
    LeftWeight.rule(True),
    LeftWeight.rule(False),
    PointwiseConv.rule(),
    PointwiseGemm.rule(),
)
