"""How long the axes of a synthesized sample are, by the names and places of its dimensions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from bitfold.passes.core.dim_names import is_placeholder, telling_names
from bitfold.passes.core.wanted_dims import wanted_dims


@dataclass(frozen=True)
class Sizes:
    """The lengths that symbolic dimensions take in one sample.

    Attributes:
        uneven: whether the axes of an input differ in length wherever nothing tells that they are
            equal; what takes one axis for another then shows.
    """

    batch: int
    sequence: int
    past: int
    image: int = 64
    other: int = 8
    uneven: bool = False


def is_past(value: ir.Value) -> bool:
    """Whether an input is a cache of keys or values, by its name and rank."""
    name = (value.name or "").lower()
    return name.startswith(("past", "cache")) and value.shape is not None and len(value.shape) >= 3


def name_lengths(inputs: Sequence[ir.Value], sizes: Sizes, past: int) -> dict[str, int]:
    """A length for every symbolic dimension that has a name."""
    lengths: dict[str, int] = {}
    for value in inputs:
        for axis, name in enumerate(_names(value, sizes)):
            if name is not None and name not in lengths:
                lengths[name] = _length(name, value, axis, sizes, past)
    return lengths


def _names(value: ir.Value, sizes: Sizes) -> list[str | None]:
    """The names to go by: one that stands twice on an input is believed in even samples alone."""
    names = [None if isinstance(dim, int) else dim.value for dim in value.shape or ()]
    return (
        telling_names(value)
        if sizes.uneven
        else [None if is_placeholder(name) else name for name in names]
    )


def _length(symbol: str, value: ir.Value, axis: int, sizes: Sizes, past: int) -> int:
    text = symbol.lower()
    if "+" in text:
        return sum(_length(part.strip(), value, axis, sizes, past) for part in text.split("+"))
    if text.isdigit():
        return int(text)
    if "batch" in text or text in ("b", "n"):
        return sizes.batch
    if "total" in text or "mask" in text or "kv" in text:
        return past + sizes.sequence
    if "past" in text or "cache" in text:
        return past
    if "seq" in text or "length" in text or "token" in text or text in ("s", "t", "l"):
        # Some exporters give the mask's or the cache's axis a sequence-like name of its own.
        return past if is_past(value) else sizes.sequence
    if re.search(r"height|width|^[hw]$", text):
        return _image(axis, sizes)
    return _by_place(value, axis, sizes, past)


def _unnamed(axis: int, rank: int, sizes: Sizes) -> int:
    """A length for an axis of an input without a shape."""
    if axis == 0:
        return sizes.batch
    return _image(axis, sizes) if rank == 4 else sizes.sequence


def _image(axis: int, sizes: Sizes) -> int:
    """Height or width; in uneven samples the later axis is longer, by what strides divide."""
    return sizes.image + (32 * max(axis - 2, 0) if sizes.uneven else 0)


def _by_place(value: ir.Value, axis: int, sizes: Sizes, past: int) -> int:
    """A length for a dimension whose name says nothing: by where it stands."""
    rank = len(value.shape) if value.shape is not None else 0
    name = (value.name or "").lower()
    if axis == 0 and rank > 1:
        return sizes.batch
    if is_past(value):
        return past
    if "mask" in name and axis == rank - 1:
        return past + sizes.sequence
    if "ids" in name or "mask" in name:
        return sizes.sequence
    if rank == 4 and axis >= 2:
        return _image(axis, sizes)
    return sizes.other + (axis if sizes.uneven else 0)


def shape_of(value: ir.Value, lengths: dict[str, int], sizes: Sizes, past: int) -> tuple[int, ...]:
    """The shape of one input, in the lengths that :func:`name_lengths` gave the names."""
    wanted = wanted_dims(value)
    if value.shape is None:
        return tuple(
            _unnamed(axis, len(wanted or ()), sizes) if dim is None else dim
            for axis, dim in enumerate(wanted or ())
        )
    shape = []
    names = _names(value, sizes)
    for axis, dim in enumerate(value.shape):
        told = wanted[axis] if wanted is not None and axis < len(wanted) else None
        if isinstance(dim, int):
            shape.append(dim)
        elif told is not None:
            shape.append(told)
        else:
            name = names[axis]
            place = _by_place(value, axis, sizes, past) if name is None else lengths[name]
            shape.append(place)
    title = (value.name or "").lower()
    if past and "mask" in title and len(shape) == 2 and not isinstance(value.shape[1], int):
        shape[1] = past + sizes.sequence  # even where its axis shares the tokens' name
    return tuple(shape)
