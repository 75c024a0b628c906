"""One half of a rotary table that is written twice: the cosines and sines that the op reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from bitfold.passes.canonicalize.rules import ints, last_dim, scalar

Build = Callable[[Any], Any]
"""Builds nodes with a rewriter's ``op`` and returns the value."""

_ELEMENTWISE = frozenset({"Cos", "Sin", "Cast", "Identity", "Neg"})
_ARITHMETIC = frozenset({"Mul", "Div", "Add", "Sub"})
LARGEST = 1 << 22
"""Constant tables with more elements than this are not read."""


def halved(table: ir.Value, neighbours: bool) -> Build | None:
    """How to make the half of ``table`` [..., 2 r] that its other half repeats.

    Args:
        neighbours: each entry is beside its copy (a a b b); otherwise the halves follow each
            other (a b a b).

    Returns:
        What builds [..., r]; None where the table is not seen to hold everything twice.
    """
    if table.is_initializer():
        return _constant(table, neighbours)
    node = table.producer()
    if node is None or node.domain != "":
        return None
    if node.op_type in _ELEMENTWISE or node.op_type in _ARITHMETIC:
        return _elementwise(node, neighbours)
    source = node.inputs[0]
    if source is None:
        return None
    if node.op_type == "Concat" and not neighbours:
        return _repeated(node, table)
    if node.op_type == "Reshape" and neighbours:
        found = _interleaved(source, table)
        if found is not None:
            return found
    if node.op_type not in ("Unsqueeze", "Squeeze", "Gather", "Slice", "Expand"):
        return None
    inner = halved(source, neighbours)
    if inner is None or not _keeps_last(node, table):
        return None
    if node.op_type == "Expand":
        # Broadcasting is left to the end: only then is the size of the last axis the half's.
        return inner
    rest = list(node.inputs[1:])
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    return lambda op: getattr(op, node.op_type)(inner(op), *rest, **attributes)


def unsqueezed_at(table: ir.Value, axis: int) -> ir.Value | None:
    """What ``table`` is without its axis ``axis``, where an Unsqueeze put that one there."""
    node = table.producer()
    if node is None or node.op_type != "Unsqueeze" or table.shape is None:
        return None
    axes = ints(node.inputs[1])
    if axes is None or [each % len(table.shape) for each in axes] != [axis]:
        return None
    return node.inputs[0]


def _constant(table: ir.Value, neighbours: bool) -> Build | None:
    tensor = table.const_value
    if tensor is None or table.is_graph_input() or tensor.size > LARGEST or not tensor.shape:
        return None
    array = tensor.numpy()
    size = array.shape[-1] // 2
    if array.shape[-1] % 2:
        return None
    if neighbours:
        first, second = array[..., ::2], array[..., 1::2]
    else:
        first, second = array[..., :size], array[..., size:]
    if not np.array_equal(first, second):
        return None
    return lambda op: op.Constant(value=ir.tensor(np.ascontiguousarray(first)))


def _elementwise(node: ir.Node, neighbours: bool) -> Build | None:
    """A function of each element, whose other operands are scalars or repeated likewise."""
    operands: list[Build] = []
    halves = 0
    for value in node.inputs:
        if value is None:
            return None
        if scalar(value) is not None or last_dim(value) == 1:
            operands.append(_as_is(value))
            continue
        half = halved(value, neighbours)
        if half is None:
            return None
        operands.append(half)
        halves += 1
    if not halves:
        return None
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    return lambda op: getattr(op, node.op_type)(*[each(op) for each in operands], **attributes)


def _as_is(value: ir.Value) -> Build:
    return lambda op: value


def _repeated(node: ir.Node, table: ir.Value) -> Build | None:
    """Concat of a value with itself over the last axis."""
    rank = len(table.shape) if table.shape is not None else None
    axis = node.attributes.get_int("axis", 0)
    if len(node.inputs) != 2 or node.inputs[0] is not node.inputs[1]:
        return None
    return (lambda op: node.inputs[0]) if axis == -1 or axis + 1 == rank else None


def _interleaved(source: ir.Value, table: ir.Value) -> Build | None:
    """Reshape of [..., r, 2], an Expand of [..., r, 1] or a Concat of that with itself."""
    node = source.producer()
    single = node.inputs[0] if node is not None else None
    if node is None or single is None or single.shape is None or source.shape is None:
        return None
    if table.shape is None or len(single.shape) != len(source.shape) or len(table.shape) < 2:
        return None
    if source.shape[-1] != 2 or single.shape[-1] != 1 or node.op_type not in ("Expand", "Concat"):
        return None
    if node.op_type == "Concat" and (len(node.inputs) != 2 or node.inputs[1] is not single):
        return None
    shape = list(single.shape)
    size = shape[-2]
    # All that the reshape may do is to join the last two axes.
    if not isinstance(size, int) or table.shape[-1] != 2 * size:
        return None
    if list(table.shape[:-1]) != list(source.shape[:-2]) or list(source.shape[:-1]) != shape[:-1]:
        return None
    return lambda op: op.Squeeze(single, op.Constant(value_ints=[-1]))


def _keeps_last(node: ir.Node, table: ir.Value) -> bool:
    """Whether a node that moves elements leaves the last axis alone."""
    source = node.inputs[0]
    if source is None or source.shape is None or table.shape is None:
        return False
    rank, after = len(source.shape), len(table.shape)
    if node.op_type == "Gather":
        return node.attributes.get_int("axis", 0) % rank != rank - 1
    if node.op_type == "Expand":
        return source.shape[-1] == table.shape[-1]
    axes = ints(node.inputs[3] if node.op_type == "Slice" else node.inputs[1])
    if axes is None or (node.op_type == "Slice" and len(node.inputs) < 4):
        return False
    size = after if node.op_type == "Unsqueeze" else rank
    return all(each % size != size - 1 for each in axes)
