"""Coordinates of every activation's channels, and what the operators say about them.

An array of coordinates has the rank of its value.  An axis along which the coordinates differ has
its own length (or its period, where its length is not fixed); any other, over rows, has length 1.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis.sites import input_at
from bitfold.passes.analysis.spaces.symmetry import ALL, Symmetry
from bitfold.passes.core.rewire import constant


class Role(enum.Enum):
    """How a parameter meets the coordinates on its axes."""

    WRITE = "write"
    """They are what it gives: a linear op's outputs, a gain's, a bias's."""
    READ = "read"
    """They are what it is multiplied by: a linear op's inputs."""


class Kind(enum.Enum):
    """What a parameter is to its operator."""

    WEIGHT = "weight"
    """A matrix over channels."""
    BIAS = "bias"
    """Added, channel by channel; or data itself, as rows of a table are."""
    GAIN = "gain"
    """A factor for each channel: a norm's gain, a depthwise kernel."""
    SLOPE = "slope"
    """A factor for each channel's negative numbers: it is reordered, and nothing else."""


@dataclass(frozen=True)
class Port:
    """One axis (or several) of a parameter that holds coordinates.

    Attributes:
        node: what reads the parameter.
        index: which of its inputs it is.
        view: the shape that the parameter is seen in.
        axes: axes of ``view`` that hold coordinates.
        ids: the coordinates, of the shape of those axes.
        role: what the parameter does to them.
        op: the operator that the port belongs to; ``node`` may be a Transpose in front of it.
        kind: what the parameter is to ``op``.
    """

    node: ir.Node
    index: int
    view: tuple[int, ...]
    axes: tuple[int, ...]
    ids: np.ndarray
    role: Role
    op: ir.Node
    kind: Kind = Kind.WEIGHT


@dataclass(frozen=True)
class Link:
    """Coordinates ``a[i]`` and ``b[i]`` are one under ``symmetry``; inverse ones where ``dual``."""

    a: np.ndarray
    b: np.ndarray
    symmetry: Symmetry
    dual: bool = False


@dataclass(frozen=True)
class Limit:
    """``node`` makes ``lost`` impossible for the coordinates ``ids``."""

    ids: np.ndarray
    lost: Symmetry
    node: ir.Node | None
    reason: str


@dataclass(frozen=True)
class Part:
    """Coordinates of other labels must not be mixed: ``node`` treats them apart (heads, say)."""

    ids: np.ndarray
    labels: np.ndarray
    node: ir.Node


@dataclass(frozen=True)
class State:
    """A graph input and output that hand coordinates on from one run to the next: a cache.

    ``ids`` [1, heads, 1, D] are those of the output.
    """

    given: ir.Value
    kept: ir.Value
    ids: np.ndarray


@dataclass
class Trace:
    """What one walk over a graph gathered.

    Attributes:
        count: coordinates are the numbers below this.
        at: the coordinates of each value that has any.
        joined: norms with a gain for each channel that are treated as though they had none.
    """

    joined: frozenset[ir.Node] = frozenset()
    count: int = 0
    at: dict[ir.Value, np.ndarray] = field(default_factory=dict)
    ports: list[Port] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    limits: list[Limit] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    states: list[State] = field(default_factory=list)
    carriers: list[tuple[ir.Node, int]] = field(default_factory=list)
    _unscaled: set[int] = field(default_factory=set)

    def ids(self, value: ir.Value | None) -> np.ndarray | None:
        """The coordinates of a value, or None where it has no channels that are known."""
        return None if value is None else self.at.get(value)

    def fresh(self, count: int) -> np.ndarray:
        """New coordinates."""
        made = np.arange(self.count, self.count + count)
        self.count += count
        return made

    def put(self, value: ir.Value, ids: np.ndarray) -> None:
        """Say what the coordinates of a value are; of new data, use :meth:`carry`."""
        ids = squash(ids)
        self.at[value] = ids
        node = value.producer()
        if node is not None:
            self.carriers.append((node, int(ids.flat[0])))

    def renew(self, ids: np.ndarray) -> np.ndarray:
        """New coordinates, another for each place, in the order of the old ones."""
        made = np.empty(ids.size, int)
        made[np.argsort(ids.reshape(-1), kind="stable")] = self.fresh(ids.size)
        return made.reshape(ids.shape)

    def carry(self, value: ir.Value, ids: np.ndarray, symmetry: Symmetry = ALL) -> None:
        """A value holds new data in the coordinates ``ids``.

        Its own are :meth:`copied` ones.
        """
        self.put(value, self.copied(squash(ids), symmetry))

    def copied(self, ids: np.ndarray, symmetry: Symmetry = ALL) -> np.ndarray:
        """New coordinates that are one with ``ids`` under ``symmetry``.

        What a Concat joins of the old data and the new can so be told apart: no change may mix
        channels of both.
        """
        made = self.renew(ids)
        self.link(made, ids, symmetry)
        if not self.scalable(ids):
            unscaled = np.isin(ids, list(self._unscaled.intersection(ids.reshape(-1).tolist())))
            self._unscaled.update(made[unscaled].tolist())
        return made

    def write(self, value: ir.Value, axis: int, count: int) -> np.ndarray:
        """Give a value new coordinates along one axis; returns them."""
        made = self.fresh(count)
        assert value.shape is not None, "handlers look at the shapes first"
        dims = [1] * len(value.shape)
        dims[axis] = count
        self.put(value, made.reshape(dims))
        return made

    def link(
        self, a: np.ndarray, b: np.ndarray, symmetry: Symmetry = ALL, dual: bool = False
    ) -> None:
        """Two arrays of one shape (or that broadcast) hold the same coordinates."""
        a, b = np.broadcast_arrays(a, b)
        differ = np.flatnonzero(a.reshape(-1) != b.reshape(-1)) if not dual else slice(None)
        first, second = a.reshape(-1)[differ], b.reshape(-1)[differ]
        if len(first):
            self.links.append(Link(first, second, symmetry, dual))

    def limit(self, ids: np.ndarray, lost: Symmetry, node: ir.Node | None, reason: str) -> None:
        """Rule something out."""
        flat = np.unique(ids)
        self.limits.append(Limit(flat, lost, node, reason))
        if Symmetry.SCALE in lost:
            self._unscaled.update(flat.tolist())

    def scalable(self, ids: np.ndarray) -> bool:
        """Whether nothing so far keeps these coordinates from being scaled."""
        return self._unscaled.isdisjoint(ids.reshape(-1).tolist())

    def channel(self, ids: np.ndarray, axis: int) -> np.ndarray:
        """Coordinates along one axis, when all places along the others are treated alike."""
        rows = np.moveaxis(ids, axis, -1).reshape(-1, ids.shape[axis])
        if len(rows) > 1:
            self.link(rows[1:], rows[:1])
        return rows[0]

    def keep(self, past: ir.Value | None, kept: ir.Value | None) -> bool:
        """Note a cache of heads that comes in as ``past`` and goes out; False where it is none.

        Whoever else reads the past would meet it in other coordinates.
        """
        ids = self.ids(kept)
        if ids is None or ids.ndim != 4 or ids.shape[0] > 1 or ids.shape[2] > 1:
            return False
        if ids.shape[3] < 2 or past is None or not past.is_graph_input() or past.is_graph_output():
            return False
        readers = [use.node for use in past.uses() if use.node.op_type not in ("Shape", "Size")]
        if len(readers) != 1:
            return False
        if kept is None or not kept.is_graph_output():
            return False
        if any(state.kept is kept for state in self.states):
            return False
        self.states.append(State(past, kept, ids))
        return True

    def part(self, ids: np.ndarray, axes: tuple[int, ...], node: ir.Node) -> None:
        """Coordinates at different places along ``axes`` are treated apart by ``node``."""
        shape = [ids.shape[axis] if axis in axes else 1 for axis in range(ids.ndim)]
        if np.prod(shape) > 1:
            labels = np.broadcast_to(np.arange(np.prod(shape)).reshape(shape), ids.shape)
            self.parts.append(Part(ids.reshape(-1), labels.reshape(-1), node))


def squash(ids: np.ndarray) -> np.ndarray:
    """The same coordinates with axes along which they do not differ made of length 1."""
    for axis in range(ids.ndim):
        if ids.shape[axis] > 1:
            first = ids.take([0], axis)
            if bool((ids == first).all()):
                ids = first
    return ids


def varying(ids: np.ndarray) -> tuple[int, ...]:
    """Axes along which coordinates differ."""
    return tuple(axis for axis, size in enumerate(ids.shape) if size > 1)


def dims_of(value: ir.Value | None) -> list[int | None] | None:
    """A value's dimensions, None for those that are not fixed; None where the rank is unknown."""
    if value is None or value.shape is None:
        return None
    return [dim if isinstance(dim, int) else None for dim in value.shape]


def numbers_at(node: ir.Node, index: int) -> list[int] | None:
    """The constant integers that are an input of ``node``; None where they are not known."""
    array = constant(input_at(node, index))
    return None if array is None else [int(each) for each in array.reshape(-1)]
