"""Raise MatMul + Add of a constant vector to Gemm, where the input is a matrix."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import MatchResult, RewriteRule

from bitfold.passes.canonicalize.rules import Rule, decline, pass_over, vector_length


class RaiseMatmulAdd(Rule):
    """``MatMul(x, W) + bias`` to ``Gemm(x, W, bias)`` for x[rows, K] and constant W and bias.

    Gemm takes matrices only: with any other rank MatMul + Add is the normal form.
    """

    def __init__(self, bias_first: bool) -> None:
        super().__init__("Gemm raised from MatMul + Add")
        self._bias_first = bias_first

    def pattern(self, op: Any, x: Any, weight: Any, bias: Any) -> Any:
        product = op.MatMul(x, weight)
        return op.Add(bias, product) if self._bias_first else op.Add(product, bias)

    def check(
        self, context: Any, x: ir.Value, weight: ir.Value, bias: ir.Value, **_: Any
    ) -> MatchResult:
        tensor = weight.const_value
        if tensor is None or weight.is_graph_input() or len(tensor.shape) != 2:
            return pass_over()
        length = vector_length(bias)
        if length is None or x.shape is None or len(x.shape) != 2:
            return pass_over()
        if length != tensor.shape[1]:
            return decline("what is added is not a constant vector of the outputs", bias)
        return MatchResult()

    def rewrite(self, op: Any, x: ir.Value, weight: ir.Value, bias: ir.Value, **_: Any) -> Any:
        return op.Gemm(x, weight, bias)


RULES: tuple[RewriteRule, ...] = (RaiseMatmulAdd.rule(True), RaiseMatmulAdd.rule(False))
