"""Where the activations of a channel space can be seen: values inside the graph."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bitfold.passes.analysis.sites import site_of
from bitfold.passes.analysis.spaces.kinds import NORMS
from bitfold.passes.analysis.spaces.space import Held, Space


@dataclass(frozen=True)
class Place:
    """A value inside the graph that holds channels of a space.

    Attributes:
        value: its name.
        axis: of the channels; all others are tokens.
        channels: of each place along it the channel of the space, counted through its blocks; -1
            outside.  Empty where the place is the channel.
    """

    value: str
    axis: int = -1
    channels: tuple[int, ...] = ()

    def rows(self, array: np.ndarray) -> np.ndarray:
        """float32 [tokens, channels] of the value's array; tokens that are not finite are left out.

        The channels are those of the space alone.
        """
        rows = np.moveaxis(array, self.axis, -1).reshape(-1, array.shape[self.axis])
        rows = rows.astype(np.float32, copy=False)
        inside = np.array(self.channels) >= 0
        rows = rows if inside.all() else rows[:, inside]
        finite = np.isfinite(rows).all(axis=1)
        return rows if finite.all() else rows[finite]

    def channel(self, column: int) -> int:
        """The channel of the space that a column of :meth:`rows` is."""
        inside = [channel for channel in self.channels if channel >= 0]
        return inside[column] if inside else column


def place_read(held: Held, size: int) -> Place | None:
    """What a reader of a space of ``size`` channels a block reads; None where it is no site."""
    site = site_of(held.port.op)
    if site is None:
        return None
    block, place = held.block.ravel(), held.place.ravel()
    channels = np.where(block < 0, -1, block * size + place)
    return Place(str(site.data.name), 1 if site.kind == "conv" else -1, tuple(channels.tolist()))


def read_places(space: Space) -> dict[Place, Held]:
    """Every place where linear ops read a space, each with the first of those that do."""
    found: dict[Place, Held] = {}
    for held in space.readers:
        place = place_read(held, space.size)
        if place is not None:
            found.setdefault(place, held)
    return found


def places_before_norms(space: Space) -> list[Place]:
    """The stream in front of a space's norms, which divide massive activations away."""
    norms = [node for node in space.nodes if node.op_type in NORMS]
    streams = [node.inputs[0] for node in norms if node.inputs[0] is not None]
    return list(dict.fromkeys(Place(str(value.name)) for value in streams))
