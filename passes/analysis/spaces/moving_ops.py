"""Operators that only move elements: what they do to the data they do to the coordinates."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis.sites import input_at
from bitfold.passes.analysis.spaces.symmetry import ALL
from bitfold.passes.analysis.spaces.trace import Port, Role, State, Trace, dims_of, numbers_at
from bitfold.passes.core.rewire import constant


def same(node: ir.Node, trace: Trace) -> str | None:
    """Identity, Cast, pooling over pixels and the like: the first input's coordinates go on."""
    ids, output = trace.ids(input_at(node, 0)), node.outputs[0]
    if ids is None:
        return None
    if output.shape is None or len(output.shape) != ids.ndim:
        return "the shape of its output is not known"
    trace.put(output, ids)
    return None


def pool(node: ir.Node, trace: Trace) -> str | None:
    """A pooling over axes from the third on."""
    ids = trace.ids(input_at(node, 0))
    if ids is not None and any(size > 1 for size in ids.shape[2:]):
        return "it pools over channels"
    return same(node, trace)


def reshape(node: ir.Node, trace: Trace) -> str | None:
    """Reshape, Flatten, Squeeze and Unsqueeze."""
    source, output = input_at(node, 0), node.outputs[0]
    ids = trace.ids(source)
    if ids is None:
        return None
    if source is None or source.shape is None or output.shape is None:
        return "the shape of its output is not known"
    shaped = reshaped(ids, _sizes(source.shape), _sizes(output.shape))
    if shaped is None:
        return "it mixes channels with rows"
    trace.put(output, shaped)
    return None


def _sizes(shape: ir.Shape) -> list[int | str | None]:
    return [dim if isinstance(dim, int) else dim.value for dim in shape]


def reshaped(
    ids: np.ndarray, old: Sequence[int | str | None], new: Sequence[int | str | None]
) -> np.ndarray | None:
    """``ids`` of a value of dimensions ``old`` behind a Reshape to ``new``.

    Dimensions that agree in front and behind stay as they are.  Of those between, the ones up to
    the last that has no fixed length are rows; where that one takes channels in (batch times
    heads, say), its coordinates repeat with a period that is known.

    Returns:
        None where the coordinates cannot be followed.
    """
    front = _agreeing(old, new)
    back = _agreeing(old[front:][::-1], new[front:][::-1])
    before, after = old[front : len(old) - back], new[front : len(new) - back]
    lead, own, tail = np.split(np.array(ids.shape), [front, len(old) - back])
    target = [1] * len(after)
    if np.prod(own) > 1:
        hole, gap = _last_open(before), _last_open(after)
        if np.prod(own[: max(hole, 0)]) > 1:
            return None
        inner = [
            int(own[i]) if i <= hole else int(size) for i, size in enumerate(before) if i >= hole
        ]  # type: ignore[arg-type]
        channels = math.prod(inner)
        sizes = [size for size in after[gap + 1 :] if isinstance(size, int)]
        if gap < 0:
            while sizes and math.prod(sizes) > channels and hole >= 0:
                sizes = sizes[1:]
        period, rest = divmod(channels, max(1, math.prod(sizes)))
        if rest or (gap < 0 and period != 1) or (period > 1 and _open(after) > 1):
            return None
        target[len(after) - len(sizes) :] = sizes
        if period > 1:
            target[gap] = period
        ids = ids.reshape((*lead, *own[max(hole, 0) :], *tail))
        ids = np.broadcast_to(ids, (*lead, *inner, *tail))
    return ids.reshape((*lead, *target, *tail))


def _agreeing(a: Sequence[object], b: Sequence[object]) -> int:
    """How many of the first elements agree."""
    pairs = zip(a, b, strict=False)
    return next((i for i, (x, y) in enumerate(pairs) if x is None or x != y), min(len(a), len(b)))


def _open(sizes: Sequence[object]) -> int:
    return sum(not isinstance(size, int) for size in sizes)


def _last_open(sizes: Sequence[object]) -> int:
    return max((i for i, size in enumerate(sizes) if not isinstance(size, int)), default=-1)


def transpose(node: ir.Node, trace: Trace) -> str | None:
    """Transpose."""
    ids = trace.ids(input_at(node, 0))
    if ids is not None:
        order = node.attributes.get_ints("perm", tuple(range(ids.ndim))[::-1])
        trace.put(node.outputs[0], ids.transpose(order))
    return None


def expand(node: ir.Node, trace: Trace) -> str | None:
    """Expand."""
    source, output = input_at(node, 0), node.outputs[0]
    ids, new = trace.ids(source), dims_of(output)
    if ids is None:
        return _rows_of_constant(node, trace)
    if new is None:
        return "the rank of its output is not known"
    trace.put(output, ids.reshape((1,) * (len(new) - ids.ndim) + ids.shape))
    return None


def _rows_of_constant(node: ir.Node, trace: Trace) -> str | None:
    """Rows cut from a constant, or repeated (positions, a class token): its last axis is written."""
    array, new = constant(input_at(node, 0)), dims_of(node.outputs[0])
    if array is None or array.dtype.kind != "f" or array.ndim == 0 or not new:
        return None
    width = array.shape[-1]
    if width > 1 and new[-1] == width:
        made = trace.write(node.outputs[0], len(new) - 1, width)
        port = Port(node, 0, array.shape, (array.ndim - 1,), made, Role.WRITE, node, linear=False)
        trace.ports.append(port)
    return None


def slice_(node: ir.Node, trace: Trace) -> str | None:
    """Slice with constant bounds; over rows, with any."""
    ids = trace.ids(input_at(node, 0))
    if ids is None:
        return _rows_of_constant(node, trace)
    axes = numbers_at(node, 3)
    starts, ends = numbers_at(node, 1), numbers_at(node, 2)
    count = len(starts or ends or axes or ids.shape)
    if input_at(node, 3) is None:
        axes = list(range(count))
    steps = [1] * count if input_at(node, 4) is None else numbers_at(node, 4)
    if axes is None:
        return None if not any(s > 1 for s in ids.shape) else "its axes are no constants"
    cut = [slice(None)] * ids.ndim
    for place, axis in enumerate(axes):
        if ids.shape[axis] == 1:
            continue
        if starts is None or ends is None or steps is None:
            return "it cuts channels at places that are no constants"
        begin, end, step = starts[place], ends[place], steps[place]
        if step < 0 or dims_of(node.inputs[0])[axis] is None:  # type: ignore[index]
            return "it reverses channels"
        cut[axis] = slice(begin, end, step)
    trace.put(node.outputs[0], ids[tuple(cut)])
    return None


def split(node: ir.Node, trace: Trace) -> str | None:
    """Split."""
    ids = trace.ids(input_at(node, 0))
    if ids is None:
        return None
    axis = node.attributes.get_int("axis", 0)
    if ids.shape[axis] == 1:
        for output in node.outputs:
            trace.put(output, ids)
        return None
    start = 0
    for output in node.outputs:
        dims = dims_of(output)
        size = dims[axis] if dims else None
        if size is None:
            return "the sizes of its parts are not known"
        trace.put(output, ids.take(range(start, start + size), axis))
        start += size
    return None


def concat(node: ir.Node, trace: Trace) -> str | None:
    """Concat: of channels, or of rows, which then have the same channels."""
    found = [trace.ids(value) for value in node.inputs]
    known = [ids for ids in found if ids is not None]
    if not known:
        return None
    rank = known[0].ndim
    axis = node.attributes.get_int("axis", 0) % rank
    if all(ids.shape[axis] == 1 for ids in known):
        return _concat_rows(node, trace, found)
    parts: list[np.ndarray] = []
    for value, ids in zip(node.inputs, found, strict=True):
        dims = dims_of(value)
        if dims is None or dims[axis] is None:
            return "the sizes of its parts are not known"
        length = dims[axis]
        if ids is None:
            shape = [length if each == axis else 1 for each in range(rank)]
            ids = trace.fresh(length).reshape(shape)  # type: ignore[arg-type]
            trace.limit(ids, ALL, node, f"{node.op_type} {node.name} joins it with other data")
        wide = list(ids.shape)
        wide[axis] = length  # type: ignore[call-overload]
        parts.append(np.broadcast_to(ids, wide))
    others = [max(p.shape[each] for p in parts) for each in range(rank)]
    shapes = [[p.shape[e] if e == axis else others[e] for e in range(rank)] for p in parts]
    wide_parts = [np.broadcast_to(p, shape) for p, shape in zip(parts, shapes, strict=True)]
    trace.put(node.outputs[0], np.concatenate(wide_parts, axis))
    return None


def _concat_rows(node: ir.Node, trace: Trace, found: list[np.ndarray | None]) -> str | None:
    first = next(ids for ids in found if ids is not None)
    for value, ids in zip(node.inputs, found, strict=True):
        if ids is not None:
            trace.link(ids, first)
        elif value is not None and value.is_graph_input() and node.outputs[0].is_graph_output():
            trace.states.append(State(value, node.outputs[0], first))
        else:
            return f"{value.name if value else ''} joins its rows"
    trace.put(node.outputs[0], first)
    return None


def gather(node: ir.Node, trace: Trace) -> str | None:
    """Gather from an activation: of rows, or of channels at constant places."""
    ids, where = trace.ids(input_at(node, 0)), input_at(node, 1)
    if ids is None:
        return None
    axis = node.attributes.get_int("axis", 0) % ids.ndim
    width = dims_of(where)
    if width is None:
        return "the rank of its indices is not known"
    if ids.shape[axis] == 1:
        shape = (*ids.shape[:axis], *(1 for _ in width), *ids.shape[axis + 1 :])
        trace.put(node.outputs[0], ids.reshape(shape))
        return None
    places = constant(where)
    if places is None:
        return "it picks channels at places that are no constants"
    trace.put(node.outputs[0], np.take(ids, places, axis))
    return None


def reduce(node: ir.Node, trace: Trace) -> str | None:
    """ReduceMean and ReduceSum over rows."""
    source, output = input_at(node, 0), node.outputs[0]
    ids = trace.ids(source)
    if ids is None:
        return None
    axes = numbers_at(node, 1) if input_at(node, 1) is not None else list(range(ids.ndim))
    if axes is None or any(ids.shape[axis] > 1 for axis in axes):
        return "it sums over channels"
    if not node.attributes.get_int("keepdims", 1):
        ids = np.squeeze(ids, tuple(axes))
    trace.put(output, ids)
    return None
