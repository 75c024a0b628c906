"""Bring linear layers on flattened rows to the normal form, on the tensor as it is."""

from __future__ import annotations

import math
from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import MatchResult, RewriteRule

from bitfold.passes.canonicalize.rules import Rule, pass_over


class RaiseFlatLinear(Rule):
    """``Reshape(Gemm(Reshape(x, [-1, K]), W, bias), [..., N])`` to ``MatMul(x, W) + bias``.

    For reshapes that do nothing but join the axes before the last and part them again; x's last
    axes, such as heads and head, may make up K together.
    """

    def __init__(self, biased: bool) -> None:
        super().__init__("MatMul raised from Gemm on flattened rows")
        self._biased = biased

    def pattern(self, op: Any, x: Any, flat: Any, wide: Any, weight: Any, bias: Any) -> Any:
        rows = op.Reshape(x, flat, _allow_other_attributes=True, _outputs=["rows"])
        inputs = (rows, weight, bias) if self._biased else (rows, weight)
        product = op.Gemm(*inputs, _allow_other_attributes=True, _outputs=["product"])
        return op.Reshape(product, wide, _allow_other_attributes=True, _outputs=["out"])

    def check(
        self,
        context: Any,
        x: ir.Value,
        rows: ir.Value,
        weight: ir.Value,
        product: ir.Value,
        out: ir.Value,
        bias: ir.Value | None = None,
        **_: Any,
    ) -> MatchResult:
        node = product.producer()
        if node is None or node.attributes.get_int("transA", 0) != 0:
            return pass_over()
        if any(node.attributes.get_float(name, 1.0) != 1.0 for name in ("alpha", "beta")):
            return pass_over()
        for value in (x, rows, weight, out):
            if value.shape is None:
                return pass_over()
        assert rows.shape is not None
        assert weight.shape is not None
        before, after = list(x.shape or ()), list(out.shape or ())
        leading, width = after[:-1], rows.shape[-1]
        named = all(isinstance(dim, int) or dim.value is not None for dim in leading)
        if len(leading) < 2 or before[: len(leading)] != leading or not named:
            return pass_over()
        inner = before[len(leading) :]
        if not all(isinstance(dim, int) for dim in inner) or math.prod(inner) != width:
            return pass_over()
        transposed = node.attributes.get_int("transB", 0)
        if after[-1] != weight.shape[0 if transposed else 1]:
            return pass_over()
        if bias is not None and (bias.shape is None or len(bias.shape) != 1):
            return pass_over()
        return MatchResult()

    def rewrite(
        self,
        op: Any,
        x: ir.Value,
        rows: ir.Value,
        weight: ir.Value,
        product: ir.Value,
        out: ir.Value,
        bias: ir.Value | None = None,
        **_: Any,
    ) -> Any:
        node = product.producer()
        assert node is not None  # the pattern matched it
        assert x.shape is not None  # check looked
        assert out.shape is not None
        assert rows.shape is not None
        if len(x.shape) != len(out.shape):
            width = rows.shape[-1]
            assert isinstance(width, int)
            target = [0] * (len(out.shape) - 1) + [width]
            x = op.Reshape(x, op.Constant(value_ints=target))
        if node.attributes.get_int("transB", 0):
            weight = op.Transpose(weight, perm=[1, 0])
        result = op.MatMul(x, weight)
        return result if bias is None else op.Add(result, bias)


RULES: tuple[RewriteRule, ...] = (RaiseFlatLinear.rule(True), RaiseFlatLinear.rule(False))
