"""Give Reshape a constant target where all but one of its dimensions are known."""

from __future__ import annotations

import math
from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import MatchResult, RewriteRule

from bitfold.passes.canonicalize.rules import Rule, pass_over


def mixes_zero_and_rest(output: ir.Value, numbers: list[Any]) -> bool:
    """Whether ``numbers`` as a constant would be refused by a Reshape that reads ``output``.

    ONNX forbids a -1 beside a 0 that is meant as a length; ONNX Runtime takes both when they are
    computed, and refuses them only as a constant.
    """
    return (
        0 in numbers
        and -1 in numbers
        and any(
            node.op_type == "Reshape" and node.attributes.get_int("allowzero", 0)
            for node, _ in output.uses()
        )
    )


class KnownTarget(Rule):
    """``Reshape(x, computed)`` to a constant target, where inference knows the output's shape.

    One dimension may be unknown and becomes -1, but not beside a dimension of 0: what is left
    among no elements is not determined.
    """

    def __init__(self) -> None:
        super().__init__("Reshape with a known target")

    def pattern(self, op: Any, x: Any, shape: Any) -> Any:
        return op.Reshape(x, shape, _allow_other_attributes=True, _outputs=["out"])

    def check(self, context: Any, shape: ir.Value, out: ir.Value, **_: Any) -> MatchResult:
        if ir.convenience.get_const_tensor(shape) is not None or out.shape is None:
            return pass_over()
        unknown = sum(not isinstance(dim, int) for dim in out.shape)
        return pass_over() if unknown > 1 or (unknown and 0 in out.shape) else MatchResult()

    def rewrite(self, op: Any, x: ir.Value, out: ir.Value, **_: Any) -> Any:
        assert out.shape is not None  # check looked
        dims = [dim if isinstance(dim, int) else -1 for dim in out.shape]
        return op.Reshape(x, op.Constant(value_ints=dims), allowzero=1)


class FlattenTarget(Rule):
    """``Flatten(x)`` to Reshape, where one of the two sides' sizes is known and not 0.

    An axis of 1 keeps the first dimension, which may be 0; the other side is then not -1.
    """

    def __init__(self) -> None:
        super().__init__("Reshape for Flatten")

    def pattern(self, op: Any, x: Any) -> Any:
        return op.Flatten(x, _allow_other_attributes=True, _outputs=["out"])

    def check(self, context: Any, x: ir.Value, out: ir.Value, **_: Any) -> MatchResult:
        return pass_over() if _flat_target(x, out) is None else MatchResult()

    def rewrite(self, op: Any, x: ir.Value, out: ir.Value, **_: Any) -> Any:
        return op.Reshape(x, op.Constant(value_ints=_flat_target(x, out)))


def _flat_target(x: ir.Value, out: ir.Value) -> list[int] | None:
    """The target of the Reshape that does what this Flatten does; None where there is none."""
    node = out.producer()
    if x.shape is None or node is None:
        return None
    axis = node.attributes.get_int("axis", 1)
    axis += len(x.shape) if axis < 0 else 0
    rows, columns = _size(x.shape[:axis]), _size(x.shape[axis:])
    if out.shape is not None and len(out.shape) == 2:
        known = [dim if isinstance(dim, int) else None for dim in out.shape]
        rows, columns = (
            each if found is None else found
            for each, found in zip(known, (rows, columns), strict=True)
        )
    if rows is None and columns:
        return [0 if axis == 1 else -1, columns]
    if rows and columns is None:
        return [rows, -1]
    return [rows, columns] if rows and columns else None


def _size(dims: tuple[int | ir.SymbolicDim, ...]) -> int | None:
    known = [dim for dim in dims if isinstance(dim, int)]
    return math.prod(known) if len(known) == len(dims) else None


RULES: tuple[RewriteRule, ...] = (KnownTarget.rule(), FlattenTarget.rule())
