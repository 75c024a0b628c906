"""Operators that only move elements: what they do to the data they do to the coordinates."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis.sites import input_at
from bitfold.passes.analysis.spaces.pointwise_ops import vector_port
from bitfold.passes.analysis.spaces.symmetry import ALL
from bitfold.passes.analysis.spaces.trace import (
    Kind,
    Port,
    Role,
    Trace,
    dims_of,
    numbers_at,
    varying,
)
from bitfold.passes.core.rewire import constant


def same(node: ir.Node, trace: Trace) -> str | None:
    """Identity, and Cast to floats."""
    ids, output = trace.ids(input_at(node, 0)), node.outputs[0]
    if ids is None:
        return None
    to = node.attributes.get_int("to", ir.DataType.FLOAT)
    if not ir.DataType(to).is_floating_point():
        return "it makes other numbers than floats"
    trace.put(output, ids)
    return None


def transpose(node: ir.Node, trace: Trace) -> str | None:
    """Transpose."""
    ids = trace.ids(input_at(node, 0))
    if ids is not None:
        order = node.attributes.get_ints("perm", tuple(range(ids.ndim))[::-1])
        rows = [axis for axis in order if ids.shape[axis] == 1]
        moved = rows == sorted(rows)  # else other rows come to lie beside those of the old value
        (trace.put if moved else trace.carry)(node.outputs[0], ids.transpose(order))
    return None


def expand(node: ir.Node, trace: Trace) -> str | None:
    """Expand."""
    source, output = input_at(node, 0), node.outputs[0]
    ids, new = trace.ids(source), dims_of(output)
    if ids is None:
        return _rows_of_constant(node, trace)
    if new is None:
        return "the rank of its output is not known"
    trace.carry(output, ids.reshape((1,) * (len(new) - ids.ndim) + ids.shape))
    return None


def _rows_of_constant(node: ir.Node, trace: Trace) -> str | None:
    """Rows of a constant, cut or repeated (positions, a class token): new channels."""
    array, new = constant(input_at(node, 0)), dims_of(node.outputs[0])
    if array is None or array.dtype.kind != "f" or array.ndim == 0 or not new:
        return None
    width = array.shape[-1]
    if node.op_type == "Slice":
        axes = numbers_at(node, 3)
        whole = axes is not None and all(axis % array.ndim != array.ndim - 1 for axis in axes)
    else:
        whole = new[-1] == width
    if width > 1 and whole:
        made = trace.write(node.outputs[0], len(new) - 1, width)
        port = Port(node, 0, array.shape, (array.ndim - 1,), made, Role.WRITE, node, kind=Kind.BIAS)
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
    rows = False
    for place, axis in enumerate(axes):
        if ids.shape[axis] == 1:
            rows = True
            continue
        if starts is None or ends is None or steps is None:
            return "it cuts channels at places that are no constants"
        begin, end, step = starts[place], ends[place], steps[place]
        if step < 0:
            return "it reverses channels"
        if ids.shape[axis] != _length(input_at(node, 0), axis):
            return "how many channels it cuts is not known"
        cut[axis] = slice(begin, end, step)
    kept = ids[tuple(cut)]
    if not kept.size:
        return "it leaves nothing"
    (trace.carry if rows else trace.put)(node.outputs[0], kept)
    return None


def split(node: ir.Node, trace: Trace) -> str | None:
    """Split."""
    ids = trace.ids(input_at(node, 0))
    if ids is None:
        return None
    axis = node.attributes.get_int("axis", 0)
    if ids.shape[axis] == 1:
        for output in node.outputs:
            trace.carry(output, ids)
        return None
    sizes = [_length(output, axis) for output in node.outputs]
    ends = np.cumsum([size or 0 for size in sizes])
    if not all(sizes) or ends[-1] != ids.shape[axis]:
        return "the sizes of its parts are not known"
    for output, part in zip(node.outputs, np.split(ids, ends[:-1], axis), strict=True):
        trace.put(output, part)
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
        length = _length(value, axis)
        if length is None:
            return "the sizes of its parts are not known"
        if ids is None:
            ids = trace.fresh(length).reshape([length if a == axis else 1 for a in range(rank)])
            trace.limit(ids, ALL, node, "joins it with other data")
        wide = (*ids.shape[:axis], length, *ids.shape[axis + 1 :])
        parts.append(np.broadcast_to(ids, wide))
    before, after = slice(axis), slice(axis + 1, None)
    others = np.broadcast_shapes(*((*p.shape[before], 1, *p.shape[after]) for p in parts))
    shapes = [(*others[:axis], part.shape[axis], *others[axis + 1 :]) for part in parts]
    whole = [np.broadcast_to(part, shape) for part, shape in zip(parts, shapes, strict=True)]
    trace.put(node.outputs[0], np.concatenate(whole, axis))
    return None


def _concat_rows(node: ir.Node, trace: Trace, found: list[np.ndarray | None]) -> str | None:
    first, output = next(ids for ids in found if ids is not None), node.outputs[0]
    trace.carry(output, first)
    for index, (value, ids) in enumerate(zip(node.inputs, found, strict=True)):
        array = constant(value)
        if ids is not None:
            if varying(ids) != varying(first):
                return "its operands have other channels"
            trace.link(ids, first)
        elif array is not None and all(array.shape[a] == first.shape[a] for a in varying(first)):
            port = vector_port(
                node, index, array, first, varying(first), trace, Role.WRITE, Kind.BIAS
            )
            trace.ports.append(port)
        elif not trace.keep(value, output):
            return f"{value.name if value else ''} joins its rows"
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
        trace.carry(node.outputs[0], ids.reshape(shape))
        return None
    places = constant(where)
    if places is None or not places.size:
        return "it picks channels at places that are no constants"
    if ids.shape[axis] != _length(input_at(node, 0), axis):
        return "how many channels it picks from is not known"
    trace.put(node.outputs[0], np.take(ids, places, axis))
    return None


def depth_to_space(node: ir.Node, trace: Trace) -> str | None:
    """DepthToSpace: the channels of each pixel become those of a square of pixels."""
    source = input_at(node, 0)
    row, side = _row(trace, source), node.attributes.get_int("blocksize", 1)
    if row is None:
        return None if trace.ids(source) is None else "its channels are not known"
    mode = node.attributes.get_string("mode", "DCR")
    pixels = row.reshape(side**2, -1) if mode == "DCR" else row.reshape(-1, side**2).T
    trace.link(pixels[1:], pixels[:1])  # whoever reads pixels reads all of them alike
    trace.carry(node.outputs[0], pixels[:1, :, None, None])
    return None


def space_to_depth(node: ir.Node, trace: Trace) -> str | None:
    """SpaceToDepth: the channels of a square of pixels come to lie side by side."""
    source = input_at(node, 0)
    row, side = _row(trace, source), node.attributes.get_int("blocksize", 1)
    if row is None:
        return None if trace.ids(source) is None else "its channels are not known"
    pixels = np.concatenate([trace.copied(row) for _ in range(side**2)])
    trace.put(node.outputs[0], pixels[None, :, None, None])
    return None


def _row(trace: Trace, image: ir.Value | None) -> np.ndarray | None:
    """The channels of [batch, channels, y, x]; None where not all of them are known."""
    ids = trace.ids(image)
    if ids is None or varying(ids) != (1,) or ids.shape[1] != _length(image, 1):
        return None
    return ids[0, :, 0, 0]


def _length(value: ir.Value | None, axis: int) -> int | None:
    """How long a value is along an axis; None where that is not fixed."""
    dims = dims_of(value)
    return None if dims is None else dims[axis]
