"""Operators that work element by element."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis.sites import input_at
from bitfold.passes.analysis.spaces.symmetry import ALL, CENTER, PERMUTE, ROTATE, SCALE
from bitfold.passes.analysis.spaces.trace import (
    Kind,
    Port,
    Role,
    Trace,
    dims_of,
    numbers_at,
    squash,
    varying,
)
from bitfold.passes.core.rewire import constant

BENDS = ROTATE | SCALE | CENTER
"""What a function of each element by itself rules out."""

MIXES = ROTATE | CENTER
"""What a factor of each channel by itself rules out."""


def function(node: ir.Node, trace: Trace) -> str | None:
    """A function of each element: GELU, sigmoid, a clip."""
    ids = trace.ids(input_at(node, 0))
    if ids is None:
        return None
    ids = _wide(ids, node)
    if any(_covered(ids, other) for other in node.inputs[1:] if other is not None):
        return "has other parameters for other channels"
    made = trace.renew(ids)
    trace.link(made, ids, PERMUTE)
    trace.limit(np.concatenate([ids.ravel(), made.ravel()]), BENDS, node, "is not linear")
    trace.put(node.outputs[0], made)
    return None


def homogeneous(node: ir.Node, trace: Trace) -> str | None:
    """ReLU and its like: positive factors pass through."""
    ids = trace.ids(input_at(node, 0))
    if ids is not None:
        _carry_unmixed(node, trace, ids, "lets only positive factors through")
    return None


def _carry_unmixed(node: ir.Node, trace: Trace, ids: np.ndarray, reason: str) -> None:
    """What comes out has the channels ``ids``, and may be scaled with them, but never mixed."""
    made = trace.copied(squash(ids), SCALE | PERMUTE)
    trace.limit(np.concatenate([ids.ravel(), made.ravel()]), MIXES, node, reason)
    trace.put(node.outputs[0], made)


def prelu(node: ir.Node, trace: Trace) -> str | None:
    """PRelu: a ReLU with a slope for negative numbers, perhaps another for each channel."""
    ids, slope = trace.ids(input_at(node, 0)), input_at(node, 1)
    if ids is None:
        return None
    covered = _covered(ids, slope)
    if covered:
        array = constant(slope)
        if array is None or not _fits(ids, array, covered):
            return "its slopes are not one constant for each channel"
        port = vector_port(node, 1, array, ids, covered, trace, Role.READ, Kind.SLOPE)
        trace.ports.append(port)
    return homogeneous(node, trace)


def maxima(node: ir.Node, trace: Trace) -> str | None:
    """Maxima over axes from the third on."""
    ids = trace.ids(input_at(node, 0))
    if ids is not None and any(size > 1 for size in ids.shape[2:]):
        return "it pools over channels"
    if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
        return "it tells where the maxima are"
    return homogeneous(node, trace)


def softmax(node: ir.Node, trace: Trace) -> str | None:
    """Softmax over channels, or over rows."""
    ids = trace.ids(input_at(node, 0))
    if ids is None:
        return None
    axis = node.attributes.get_int("axis", -1) % ids.ndim
    if ids.shape[axis] > 1:
        trace.part(ids, tuple(each for each in range(ids.ndim) if each != axis), node)
    return function(node, trace)


def add(node: ir.Node, trace: Trace) -> str | None:
    """Add and Sub: of two activations of one space, or of a constant."""
    values = [input_at(node, 0), input_at(node, 1)]
    found = [trace.ids(value) for value in values]
    if found[0] is None and found[1] is None:
        return None
    if found[0] is not None and found[1] is not None:
        a, b = aligned(found[0], found[1])
        if varying(a) != varying(b):
            return "its operands have other channels"
        trace.link(a, b)
        trace.carry(node.outputs[0], np.broadcast_arrays(a, b)[0])
        return None
    place = 0 if found[0] is not None else 1
    ids, other = found[place], values[1 - place]
    assert ids is not None, "one of them has coordinates"
    if place == 0 and _is_mean(node, ids):
        made = trace.renew(ids)
        trace.link(made, ids, PERMUTE)
        both = np.concatenate([ids.ravel(), made.ravel()])
        trace.limit(both, ROTATE | SCALE, node, "subtracts the mean")
        trace.put(node.outputs[0], made)
        return None
    ids = _wide(ids, node)
    array = constant(other)
    covered = _covered(ids, other)
    if array is not None and not _fits(ids, array, covered):
        return "how many channels it adds to is not known"
    trace.carry(node.outputs[0], ids)
    if not covered:
        if array is None or np.any(array):
            trace.limit(ids, BENDS, node, "adds one number to all channels")
        return None
    if array is None:
        return f"it adds {other.name if other else ''}, whose channels are not known"
    trace.ports.append(
        vector_port(node, 1 - place, array, ids, covered, trace, Role.WRITE, Kind.BIAS)
    )
    return None


def _is_mean(node: ir.Node, ids: np.ndarray) -> bool:
    """Whether ``node`` subtracts from a value of coordinates ``ids`` the mean over them."""
    value, mean = node.inputs
    producer = None if mean is None else mean.producer()
    if node.op_type != "Sub" or producer is None or producer.op_type != "ReduceMean":
        return False
    axes = numbers_at(producer, 1)
    over = None if axes is None else tuple(sorted(axis % ids.ndim for axis in axes))
    kept = producer.attributes.get_int("keepdims", 1) == 1
    return producer.inputs[0] is value and over == varying(ids) and kept


def multiply(node: ir.Node, trace: Trace) -> str | None:
    """Mul and Div: by a constant, by a factor for each row, or of two activations."""
    values = [input_at(node, 0), input_at(node, 1)]
    found = [trace.ids(value) for value in values]
    if found[0] is None and found[1] is None:
        return None
    if found[0] is not None and found[1] is not None:
        return _product(node, trace, found[0], found[1])
    place = 0 if found[0] is not None else 1
    ids, other = found[place], values[1 - place]
    assert ids is not None, "one of them has coordinates"
    ids = _wide(ids, node)
    if node.op_type == "Div" and place == 1:
        return "it divides by an activation"
    covered = _covered(ids, other)
    if not covered:
        trace.carry(node.outputs[0], ids)
        return None
    array = constant(other)
    if array is None:
        trace.limit(ids, ALL & ~SCALE, node, "multiplies each channel by something else")
        trace.carry(node.outputs[0], ids)
        return None
    if not _fits(ids, array, covered):
        return "how many channels it multiplies is not known"
    made = trace.renew(ids)
    trace.put(node.outputs[0], made)
    gain(node, 1 - place, array, ids, made, trace, divides=node.op_type == "Div")
    return None


def gain(
    node: ir.Node,
    index: int,
    array: np.ndarray,
    ids: np.ndarray,
    made: np.ndarray,
    trace: Trace,
    divides: bool = False,
) -> None:
    """``made = array * ids``, channel by channel; constants that serve several tie these."""
    covered = covering(array, ids)
    trace.link(made, ids, PERMUTE)
    for each in (ids, made):
        trace.limit(each, MIXES, node, "multiplies each channel by its own factor")
    roles = (Role.READ, Role.WRITE) if not divides else (Role.WRITE, Role.READ)
    for each, role in zip((ids, made), roles, strict=True):
        trace.ports.append(vector_port(node, index, array, each, covered, trace, role, Kind.GAIN))


def covering(array: np.ndarray, ids: np.ndarray) -> tuple[int, ...]:
    """Axes of ``ids`` that hold channels and along which ``array`` is not broadcast."""
    inside = (a for a in varying(ids) if array.ndim + a >= ids.ndim)
    return tuple(a for a in inside if array.shape[a - ids.ndim] > 1)


def vector_port(
    node: ir.Node,
    index: int,
    array: np.ndarray,
    ids: np.ndarray,
    covered: tuple[int, ...],
    trace: Trace,
    role: Role,
    kind: Kind,
) -> Port:
    """The port of a constant that broadcasts to ``ids`` and covers the axes ``covered`` of it."""
    others = tuple(a for a in varying(ids) if a not in covered)
    kept = np.moveaxis(ids, others, range(len(others)))
    kept = kept.reshape((-1, *[ids.shape[a] for a in covered]))
    if len(kept) > 1:
        trace.link(kept[1:], kept[:1])
    axes = tuple(a - ids.ndim + array.ndim for a in covered)
    return Port(node, index, array.shape, axes, kept[0], role, node, kind)


def _product(node: ir.Node, trace: Trace, a: np.ndarray, b: np.ndarray) -> str | None:
    """Two activations, element by element: one of them may still be scaled on its own."""
    a, b = aligned(a, b)
    if not varying(a) or not varying(b):  # a factor for each row
        if node.op_type == "Div" and varying(b):
            return "it divides by an activation"
        factor, kept = (a, b) if varying(b) else (b, a)
        trace.limit(factor, ALL, node, "multiplies by it")
        trace.carry(node.outputs[0], np.broadcast_arrays(kept, factor)[0])
        return None
    if varying(a) != varying(b):
        return "its operands have other channels"
    trace.link(a, b, PERMUTE)
    carrier, other = (a, b) if trace.scalable(a) and not trace.scalable(b) else (b, a)
    trace.limit(other, BENDS, node, "multiplies another activation by it")
    if node.op_type == "Div" and carrier is b:
        trace.limit(carrier, BENDS, node, "divides by it")
    whole = np.broadcast_arrays(carrier, other)[0]
    _carry_unmixed(node, trace, whole, "multiplies it by another activation")
    return None


def swiglu(node: ir.Node, trace: Trace) -> str | None:
    """bitfold's SwiGLU: the first half of the channels gates the second."""
    ids = trace.ids(input_at(node, 0))
    if ids is None:
        return None
    if ids.shape[-1] % 2:
        return "its channels cannot be halved"
    gate, up = np.split(ids, 2, axis=-1)
    trace.link(gate, up, PERMUTE)
    trace.limit(gate, BENDS, node, "is not linear")
    _carry_unmixed(node, trace, up, "multiplies it by another activation")
    return None


def where(node: ir.Node, trace: Trace) -> str | None:
    """Where with a mask over rows: of two activations of one space, or of one and zero."""
    found = [trace.ids(input_at(node, index)) for index in (1, 2)]
    if found[0] is None and found[1] is None:
        return None
    known = [ids for ids in found if ids is not None]
    ids = _wide(known[0], node)
    mask = dims_of(input_at(node, 0))
    if mask is None or any(_dim(mask, axis - ids.ndim) != 1 for axis in varying(ids)):
        trace.limit(ids, ALL & ~SCALE, node, "picks channel by channel")
    if len(known) == 2:
        a, b = aligned(known[0], known[1])
        if varying(a) != varying(b):
            return "its operands have other channels"
        trace.link(a, b)
    else:
        other = input_at(node, 1 if found[0] is None else 2)
        fill = constant(other)
        if fill is None or np.any(fill):
            lost = ALL if _covered(ids, other) else BENDS
            trace.limit(ids, lost, node, "fills in other numbers")
    trace.carry(node.outputs[0], ids)
    return None


def aligned(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both with the rank of the larger, as broadcasting sees them."""
    rank = max(a.ndim, b.ndim)
    first, second = (x.reshape((1,) * (rank - x.ndim) + x.shape) for x in (a, b))
    return first, second


def _wide(ids: np.ndarray, node: ir.Node) -> np.ndarray:
    """With the rank of the node's output."""
    shape = node.outputs[0].shape
    rank = ids.ndim if shape is None else len(shape)
    return ids.reshape((1,) * (rank - ids.ndim) + ids.shape)


def _covered(ids: np.ndarray, other: ir.Value | None) -> tuple[int, ...]:
    """Axes of ``ids`` that hold channels and along which ``other`` is not broadcast."""
    dims = dims_of(other)
    if dims is None:
        return varying(ids)
    return tuple(axis for axis in varying(ids) if _dim(dims, axis - ids.ndim) != 1)


def _dim(dims: list[int | None], place: int) -> int | None:
    return dims[place] if -place <= len(dims) else 1


def _fits(ids: np.ndarray, array: np.ndarray, covered: tuple[int, ...]) -> bool:
    """Whether a constant is as long as the coordinates along the axes that it covers.

    Along an axis of unknown length these are but the period of coordinates that repeat.
    """
    return all(array.shape[axis - ids.ndim] == ids.shape[axis] for axis in covered)
