"""Reshapes: where each channel is afterwards."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis.sites import input_at
from bitfold.passes.analysis.spaces.trace import Trace


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
    if 0 in (*old, *new):
        return None
    if np.prod(own) > 1:
        hole, gap = _last_open(before), _last_open(after)
        if np.prod(own[: max(hole, 0)]) > 1:
            return None
        start = max(hole, 0)
        inner = [int(own[hole])] if hole >= 0 else []
        inner += [size for size in before[hole + 1 :] if isinstance(size, int)]
        channels = math.prod(inner)
        sizes = [size for size in after[gap + 1 :] if isinstance(size, int)]
        if gap < 0:
            while sizes and math.prod(sizes) > channels and hole >= 0:
                sizes = sizes[1:]
        period, rest = divmod(channels, max(1, math.prod(sizes)))
        if rest or (gap < 0 and period != 1):
            return None
        if period > 1 and (
            _open(after) > 1 or any(isinstance(d, int) and d > 1 for d in after[:gap])
        ):
            return None  # the period need not begin anew along the axes in front
        target[len(after) - len(sizes) :] = sizes
        if period > 1:
            target[gap] = period
        ids = ids.reshape((*lead, *own[start:], *tail))
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
