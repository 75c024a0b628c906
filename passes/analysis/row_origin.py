"""Whether two activations have the same shape, by where each dimension comes from."""

from __future__ import annotations

import math
import re
from collections import Counter

import onnx_ir as ir

from bitfold.passes.core.dim_names import telling_names
from bitfold.passes.core.targets import ORT_DOMAIN
from bitfold.runtime.ops import DOMAIN

Axis = tuple[ir.Value, int]

UNARY = {
    *("Gelu", "Relu", "Sigmoid", "Tanh", "Softmax", "Identity", "Neg", "Erf", "Sqrt", "Cast"),
    *("Clip", "HardSwish", "HardSigmoid", "LayerNormalization", "RMSNormalization"),
    *("RotaryEmbedding",),
}
"""Operators whose first output has the shape of their first input."""

BINARY = {"Add", "Mul", "Sub", "Div", "Pow", "Where"}
"""Operators whose output is as long as the longest of their inputs."""

BY_ROW = {(DOMAIN, "SwiGLU"), (DOMAIN, "LowBitMatMul"), (DOMAIN, "FusedAttention")}
BY_ROW |= {(ORT_DOMAIN, "MultiHeadAttention"), (ORT_DOMAIN, "GroupQueryAttention")}
"""Operators whose outputs have the leading dimensions of their first input."""


def same_shape(a: ir.Value, b: ir.Value) -> bool:
    """Whether ``a`` and ``b`` certainly have the same shape.

    Dimensions are the same that are fixed and equal, or that come from the same dimensions of
    earlier values by operators that keep them.  A name counts only where one dimension of the
    graph's inputs has it: nobody checks names, and a timestep of batch 1 may be fed beside images
    of another batch, however both are named.
    """
    if a.shape is None or b.shape is None or len(a.shape) != len(b.shape) or not len(a.shape):
        return False
    return all(_same_dim((a, axis), (b, axis)) for axis in range(len(a.shape)))


def _same_dim(a: Axis, b: Axis) -> bool:
    x, y = _dim(a), _dim(b)
    if isinstance(x, int) or isinstance(y, int):
        return x == y
    if x.value is not None and x.value == y.value and _is_unique(x.value, a[0]):
        return True
    return origins(a) == origins(b)


def origins(axis: Axis) -> frozenset[Axis]:
    """The earliest dimensions that one comes from: it is as long as the longest of them."""
    pending, seen, ends = [axis], {axis}, set()
    while pending:
        current = pending.pop()
        if isinstance(_dim(current), int):
            continue
        sources = _sources(current)
        if not sources:
            ends.add(current)
        for each in sources:
            if each not in seen:
                seen.add(each)
                pending.append(each)
    return frozenset(ends)


def _dim(axis: Axis) -> int | ir.SymbolicDim:
    value, index = axis
    assert value.shape is not None  # followed only where it is known
    return value.shape[index]


def _is_unique(name: str, value: ir.Value) -> bool:
    """Whether no two dimensions of inputs have a name that stands in ``name``."""
    node = value.producer()
    graph = node.graph if node is not None else value.graph
    if not isinstance(graph, ir.Graph):
        return False
    names = Counter(each for given in graph.inputs for each in telling_names(given))
    parts = {name, *re.split(r"[-+*/(), ]+", name)}
    doubtful = {
        dim.value
        for given in graph.inputs
        for dim, telling in zip(given.shape or (), telling_names(given), strict=True)
        if not isinstance(dim, int) and telling is None
    }
    return all(names[part] < 2 and part not in doubtful for part in parts)


def _sources(axis: Axis) -> list[Axis]:
    """Dimensions of a node's inputs, the longest of which is as long as its output's; or none."""
    value, index = axis
    node = value.producer()
    if node is None or not node.inputs or node.inputs[0] is None or value.shape is None:
        return []
    first, rank = node.inputs[0], len(value.shape)
    if first.shape is None:
        return []
    inner = len(first.shape)
    main = value is node.outputs[0]
    if (node.domain, node.op_type) in BY_ROW:
        kept = (main or node.op_type == "LowBitMatMul") and rank == inner and index < rank - 1
        return [(first, index)] if kept else []
    if (node.domain, node.op_type) == (DOMAIN, "QuantizeActivation"):
        return [(first, index)]
    if node.domain not in ("", "ai.onnx"):
        return []
    if any(each is not None and each.shape is None for each in node.inputs):
        return []
    if node.op_type in UNARY:
        return [(first, index)] if main and rank == inner else []
    if node.op_type in BINARY:
        return [found for each in node.inputs for found in _aligned(each, rank, index)]
    if node.op_type == "MatMul":
        return _of_product(node, rank, index)
    if node.op_type == "Transpose":
        perm = node.attributes.get_ints("perm", range(rank)[::-1])
        return [(first, perm[index])]
    if node.op_type == "Gather":
        return _gathered(node, first, index)
    if node.op_type in ("Split", "Concat"):
        along = node.attributes.get_int("axis", 0) % rank
        return [(first, index)] if index != along else []
    if node.op_type == "Attention":
        rows = (0, 2) if rank == 4 else (0, 1)
        return [(first, index)] if main and index in rows and rank == inner else []
    return _reshaped(node, first, value, index) if node.op_type == "Reshape" else []


def _aligned(value: ir.Value | None, rank: int, index: int) -> list[Axis]:
    """The axis of an operand that meets axis ``index`` of what it broadcasts to."""
    if value is None or value.shape is None:
        return []
    mine = index - rank + len(value.shape)
    return [(value, mine)] if mine >= 0 else []


def _of_product(node: ir.Node, rank: int, index: int) -> list[Axis]:
    a, b = node.inputs
    if a is None or b is None or min(len(a.shape or ()), len(b.shape or ())) < 2:
        return []
    if index == rank - 1:
        return _aligned(b, rank, index)
    rows = _aligned(a, rank, index)
    return rows if index == rank - 2 else rows + _aligned(b, rank, index)


def _gathered(node: ir.Node, table: ir.Value, index: int) -> list[Axis]:
    where = node.inputs[1]
    assert where is not None  # the caller looked
    assert where.shape is not None
    assert table.shape is not None
    along, width = node.attributes.get_int("axis", 0) % len(table.shape), len(where.shape)
    if index < along:
        return [(table, index)]
    return [(where, index - along)] if index < along + width else [(table, index - width + 1)]


def _reshaped(node: ir.Node, source: ir.Value, value: ir.Value, index: int) -> list[Axis]:
    """An axis that Reshape keeps: it takes it over (0), or only this one is left for the -1.

    One that has its name from the source alone is kept too: the number of elements would differ.
    """
    assert source.shape is not None  # the caller looked
    assert value.shape is not None
    target = node.inputs[1].const_value if node.inputs[1] is not None else None
    if target is not None and not node.attributes.get_int("allowzero", 0):
        numbers = [int(each) for each in target.numpy()]
        if numbers[index] == 0:
            return [(source, index)]
        copied = {axis for axis, number in enumerate(numbers) if number == 0}
        others = [axis for axis in range(len(source.shape)) if axis not in copied]
        vague = [axis for axis in others if not isinstance(source.shape[axis], int)]
        known = [dim for axis in others if isinstance(dim := source.shape[axis], int)]
        fixed = math.prod(number for number in numbers if number > 0)
        if numbers[index] == -1 and len(vague) == 1 and math.prod(known) == fixed:
            return [(source, vague[0])]
    names = [None if isinstance(dim, int) else dim.value for dim in source.shape]
    mine = [None if isinstance(dim, int) else dim.value for dim in value.shape]
    if mine[index] is not None and names.count(mine[index]) == mine.count(mine[index]) == 1:
        return [(source, names.index(mine[index]))]
    return []
