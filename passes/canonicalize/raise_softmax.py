"""Raise softmax that is written out, or taken of a matrix, to Softmax-13 and LogSoftmax-13."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import MatchResult, RewriteRule
from onnxscript.rewriter.pattern import OrValue

from bitfold.passes.canonicalize.rules import (
    Rule,
    decline,
    ints,
    keeps_dims,
    last_dim,
    pass_over,
)


class RaiseSoftmax(Rule):
    """``exp(z) / sum(exp(z))``, or ``z - log(sum(exp(z)))``, over one axis.

    z is x, or x less its largest element.  Declined: sums over several axes, another axis for
    the largest element.  The logarithm of a Softmax stays two nodes: it gives -inf where
    LogSoftmax does not.
    """

    def __init__(self, logarithm: bool, shifted: bool) -> None:
        self._op = "LogSoftmax" if logarithm else "Softmax"
        super().__init__(f"{self._op} raised from its parts")
        self._logarithm, self._shifted = logarithm, shifted

    def pattern(self, op: Any, x: Any, axes: Any, axes2: Any) -> Any:
        shifted = x
        if self._shifted:
            largest = op.ReduceMax(x, axes2, _allow_other_attributes=True, _outputs=["largest"])
            shifted = op.Sub(x, largest)
        power = op.Exp(shifted)
        total = op.ReduceSum(power, axes, _allow_other_attributes=True, _outputs=["total"])
        return op.Sub(shifted, op.Log(total)) if self._logarithm else op.Div(power, total)

    def check(
        self, context: Any, x: ir.Value, axes: ir.Value, total: ir.Value, **found: Any
    ) -> MatchResult:
        summed = ints(axes)
        if summed is None or len(summed) != 1 or x.shape is None:
            return decline("its sum is not over one axis", axes)
        if not keeps_dims([total]) or (self._shifted and not keeps_dims([found["largest"]])):
            return decline("its sum does not keep the axis", total)
        if self._shifted:
            other = ints(found["axes2"])
            rank = len(x.shape)
            if other is None or [each % rank for each in other] != [summed[0] % rank]:
                return decline("its largest elements are not of the same axis", found["axes2"])
        return MatchResult()

    def rewrite(self, op: Any, x: ir.Value, axes: ir.Value, **_: Any) -> Any:
        summed = ints(axes)
        assert summed is not None  # check looked
        return getattr(op, self._op)(x, axis=summed[0])


class RaiseFlatSoftmax(Rule):
    """Softmax over the last axis of x, which is made a matrix for it and gets its shape back.

    Opset 12 and earlier define it so, and where an old graph does not tell ranks, its newer form
    has to say so.  Declined: rows of the matrix that are more or less than the last axis.
    """

    def __init__(self, logarithm: bool) -> None:
        self._op = "LogSoftmax" if logarithm else "Softmax"
        super().__init__(f"{self._op} raised from one of a matrix")

    def pattern(self, op: Any, x: Any, shape: Any, shape2: Any) -> Any:
        flat = op.Flatten(x, _allow_other_attributes=True)
        matrix = OrValue([flat, op.Reshape(x, shape, _allow_other_attributes=True)])
        result = getattr(op, self._op)(matrix, _allow_other_attributes=True, _outputs=["result"])
        return op.Reshape(result, shape2, _allow_other_attributes=True, _outputs=["y"])

    def check(
        self, context: Any, x: ir.Value, result: ir.Value, y: ir.Value, shape2: ir.Value, **_: Any
    ) -> MatchResult:
        softmax, target = result.producer(), shape2.producer()
        assert softmax is not None  # the pattern has it
        matrix = softmax.inputs[0]
        assert matrix is not None
        if not _is_shape(target, x) and not _same_sizes(x, y):
            return pass_over()
        if x.shape is None or matrix.shape is None or not _keeps_rows(x, matrix):
            return decline("the rows of its matrix are not known to be the last axis", matrix)
        if softmax.attributes.get_int("axis", -1) not in (-1, len(matrix.shape) - 1):
            return decline("it is not over the rows of its matrix", result)
        return MatchResult()

    def rewrite(self, op: Any, x: ir.Value, **_: Any) -> Any:
        return getattr(op, self._op)(x, axis=-1)


def _is_shape(node: ir.Node | None, x: ir.Value) -> bool:
    """Whether a node gives the whole shape of x."""
    if node is None or node.op_type != "Shape" or node.inputs[0] is not x:
        return False
    return not {"start", "end"} & set(node.attributes)


def _keeps_rows(x: ir.Value, matrix: ir.Value) -> bool:
    """Whether a Flatten or Reshape of x leaves its last axis as it is."""
    node, rank = matrix.producer(), len(x.shape or ())
    if node is not None and node.op_type == "Flatten" and rank:
        return node.attributes.get_int("axis", 1) % rank == rank - 1
    return last_dim(x) is not None and last_dim(x) == last_dim(matrix)


def _same_sizes(x: ir.Value, y: ir.Value) -> bool:
    if x.shape is None or y.shape is None:
        return False
    return x.shape.is_static() and x.shape == y.shape


RULES: tuple[RewriteRule, ...] = (
    *(RaiseFlatSoftmax.rule(logarithm) for logarithm in (False, True)),
    *(
        RaiseSoftmax.rule(logarithm, shifted)
        for logarithm in (False, True)
        for shifted in (True, False)
    ),
)
