"""Bring what is known of parameters' or values' channels to the channels of their space."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from bitfold.passes.analysis.spaces.space import Held, Space
from bitfold.passes.core.rewire import constant

Part = tuple[Held, np.ndarray]
"""Where a parameter holds a space, and a number for each of these places, flattened."""

BLOCK = 1 << 20
"""Elements of a weight that are looked at at once, so that a mapped one is never copied whole."""


def largest(space: Space, parts: Iterable[Part], least: float = 0.0) -> np.ndarray:
    """The largest number of each channel over all parts and copies, f64[blocks, size]."""
    found = np.full((space.blocks, space.size), least)
    for held, values in parts:
        inside = held.block >= 0
        np.maximum.at(found, (held.block[inside], held.place[inside]), values[inside])
    return found


def average(space: Space, parts: Iterable[Part]) -> np.ndarray:
    """The mean of each channel over all parts and copies, f64[blocks, size]."""
    total, count = np.zeros((2, space.blocks, space.size))
    for held, values in parts:
        inside = held.block >= 0
        where = held.block[inside], held.place[inside]
        np.add.at(total, where, values[inside])
        np.add.at(count, where, 1)
    return total / np.maximum(count, 1)


def spread(held: Held, numbers: np.ndarray, outside: float = 1.0) -> np.ndarray:
    """The inverse: for each place of ``held`` its channel's number [blocks, size]."""
    found = numbers[np.maximum(held.block, 0), np.maximum(held.place, 0)]
    return np.where(held.block >= 0, found, outside)


def reach(held: Held) -> np.ndarray:
    """The largest magnitude at each place of a parameter, f64[places]."""
    port = held.port
    array = constant(port.node.inputs[port.index])
    assert array is not None, "ports are of constants"
    seen = np.moveaxis(array.reshape(port.view), port.axes, range(-len(port.axes), 0))
    size = held.place.size
    rows = np.prod(seen.shape[: seen.ndim - len(port.axes)], dtype=int)
    if seen.ndim == 2:  # a view, whatever its order: look at it in pieces
        step = max(1, BLOCK // size)
        pieces = [seen[start : start + step] for start in range(0, rows, step)]
    else:
        pieces = [seen.reshape(rows, size)]
    found = np.zeros(size)
    for piece in pieces:
        found = np.maximum(found, np.abs(piece).max(axis=0, initial=0))
    return found
