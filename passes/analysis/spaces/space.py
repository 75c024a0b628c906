"""A channel space: coordinates that change together, and the parameters that hold them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis.spaces.symmetry import NONE, Symmetry
from bitfold.passes.analysis.spaces.trace import Kind, Port, Role, State


@dataclass(frozen=True)
class Held:
    """Where a port's parameter holds a space's coordinates.

    Attributes:
        port: which parameter, and along which axes.
        block: of each place along these axes, flattened, the block of the space; -1 outside.
        place: likewise, the channel within the block.
        inverse: where dual coordinates meet (queries and keys), the ones that change inversely.
        strand: which copy of the block it is that the channel belongs to (shared heads, say).
    """

    port: Port
    block: np.ndarray
    place: np.ndarray
    inverse: np.ndarray
    strand: np.ndarray

    def views(self, block: int, size: int) -> np.ndarray:
        """Places of the channels of a block, int[copies, size]: each row holds each of them once.

        Shared K/V heads, say, make several copies in what reads them.
        """
        places = np.flatnonzero(self.block == block)
        order = places[np.lexsort((self.strand[places], self.place[places]))]
        return order.reshape(size, -1).T

    def at(self, places: np.ndarray) -> Held:
        """The same of some of its places alone."""
        parts = (each[places] for each in (self.block, self.place, self.inverse, self.strand))
        return Held(self.port, *parts)


@dataclass(frozen=True)
class HeldState:
    """Where a cache [batch, heads, length, D] holds a space's coordinates: [heads, D] each."""

    state: State
    block: np.ndarray
    place: np.ndarray
    inverse: np.ndarray
    strand: np.ndarray

    def matrices(self, blocks: Sequence[np.ndarray]) -> np.ndarray:
        """[heads, D, D]: what each head is multiplied by where each block is by its [n, n]."""
        heads, width = self.block.shape
        found = np.tile(np.eye(width), (heads, 1, 1))
        arrays = (found, self.block, self.place, self.strand)
        for matrix, block, place, strand in zip(*arrays, strict=True):
            for number in np.unique(block[block >= 0]):
                at = np.flatnonzero(block == number)
                together = strand[at, None] == strand[at]
                matrix[np.ix_(at, at)] = together * blocks[number][np.ix_(place[at], place[at])]
        return found

    def scales(self, factors: np.ndarray) -> np.ndarray:
        """[heads, D, D]: the same where each channel is scaled by its ``factors`` [blocks, n]."""
        found = np.where(self.block < 0, 1.0, factors[self.block, self.place])
        return np.where(self.inverse, 1 / found, found)[:, :, None] * np.eye(found.shape[1])


@dataclass(frozen=True)
class Coordinates:
    """The coordinates of a trace that a space has.

    Attributes:
        ids: their numbers, ascending.
        block: of each, the block of the space.
        place: of each, the channel within the block.
        inverse: of each, whether it changes inversely (queries and keys are dual).
    """

    ids: np.ndarray
    block: np.ndarray
    place: np.ndarray
    inverse: np.ndarray

    def inverted(self, ids: np.ndarray) -> np.ndarray:
        """Whether each of ``ids``, in their shape, is one that changes inversely."""
        return np.isin(ids, self.ids[self.inverse])

    def of(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Block and place of each of ``ids``, in their shape; -1 outside the space."""
        at = np.searchsorted(self.ids, ids).clip(max=max(0, len(self.ids) - 1))
        inside = self.ids[at] == ids if len(self.ids) else np.zeros(ids.shape, bool)
        return np.where(inside, self.block[at], -1), np.where(inside, self.place[at], -1)


@dataclass(frozen=True)
class Space:
    """Channels that a change of coordinates changes together.

    Attributes:
        symmetry: the kind of change that it was found for.
        size: channels in a block.
        blocks: heads, say: each is changed by itself.
        group: everything that may be done to it.
        held: the parameters that hold its coordinates.
        limits: what is ruled out, by what: (symmetries, node or None, reason).
        carriers: operators between writers and readers, counted; writers among them.
        nodes: the nodes that give values in these coordinates, in the order of the graph.
        coordinates: which of the trace's it has.
        states: caches that hold its coordinates from run to run.
    """

    symmetry: Symmetry
    size: int
    blocks: int
    group: Symmetry
    coordinates: Coordinates
    held: tuple[Held, ...]
    limits: tuple[tuple[Symmetry, ir.Node | None, str], ...]
    carriers: Counter[str] = field(default_factory=Counter)
    nodes: tuple[ir.Node, ...] = ()
    states: tuple[HeldState, ...] = ()

    @property
    def writers(self) -> list[Held]:
        """Weights whose outputs are its channels."""
        return [h for h in self.held if h.port.kind is Kind.WEIGHT and h.port.role is Role.WRITE]

    @property
    def readers(self) -> list[Held]:
        """Weights whose inputs are its channels."""
        return [h for h in self.held if h.port.kind is Kind.WEIGHT and h.port.role is Role.READ]

    @property
    def name(self) -> str:
        """The name of its first writer, or else of whatever holds it first."""
        first = next(iter(self.writers or self.held))
        return first.port.op.name or str(first.port.op.outputs[0].name)

    def why_not(self, symmetry: Symmetry) -> str:
        """What rules ``symmetry`` out; empty where nothing does."""
        for lost, node, reason in self.limits:
            if lost & symmetry:
                return reason if node is None else f"{node.op_type} {node.name} {reason}"
        return ""

    def allows(self, symmetry: Symmetry) -> bool:
        """Whether it may be changed so."""
        return self.group & symmetry != NONE
