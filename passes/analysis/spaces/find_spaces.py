"""Spaces from traces: which coordinates are one, and which change together."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict

import numpy as np
import onnx_ir as ir
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from bitfold.passes.analysis.spaces.space import Coordinates, Held, HeldState, Space
from bitfold.passes.analysis.spaces.symmetry import ALL, SCALE, Symmetry
from bitfold.passes.analysis.spaces.trace import Trace


def find_spaces(trace: Trace, symmetry: Symmetry) -> list[Space]:
    """The spaces of a traced graph for one kind of change, in the order of the graph.

    Coordinates that are linked under ``symmetry`` are one.  Those that meet the same parameters,
    operators and limits, as often, make a space; those that an operator treats apart, as
    attention does heads, make its blocks.
    """
    classes, inverse, self_dual = _classes(trace, symmetry)
    count = int(classes.max(initial=-1)) + 1
    # Every channel may be scaled by itself; other changes mix those of one strand alone.
    strand = np.zeros_like(classes) if symmetry is SCALE else _strands(classes)
    whole, apart = _signatures(trace, symmetry, classes, strand)
    held = np.zeros(count, bool)
    for port in trace.ports:
        held[classes[port.ids.ravel()]] = True
    members = np.flatnonzero(held)
    # Blocks of one space have other heads, and each space has blocks of one size.
    block_of = _by_first(_pairs(whole[members], apart[members]))
    sizes = np.bincount(block_of, minlength=1)[block_of]
    space_of = _by_first(_pairs(whole[members], sizes))
    space, block, place = (np.full(count, -1) for _ in range(3))
    space[members] = space_of
    block[members] = _numbered_within(space_of, block_of)
    order = np.lexsort((members, block[members], space_of))
    place[members[order]] = _running(space_of[order], block[members[order]])
    return _assemble(trace, symmetry, classes, inverse, self_dual, strand, (space, block, place))


def _strands(classes: np.ndarray) -> np.ndarray:
    """Which of its class each coordinate is, in the order of their numbers.

    The channels of a space come in copies: the residual stream in front of a layer and behind it,
    each of the heads that share a key.  A strand is one of these, the coordinates that stand at
    the same place in their classes; a rotation may mix the channels of a strand, and never those
    of two.  Where the strands of two classes do not fit together, they meet different things.
    """
    order = np.argsort(classes, kind="stable")
    strand = np.empty_like(classes)
    strand[order] = _running(classes[order])
    return strand


def _classes(trace: Trace, symmetry: Symmetry) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The class of each coordinate, whether it is the inverse of its class, and whether both."""
    links = [link for link in trace.links if symmetry in link.symmetry]
    n = trace.count
    # Each coordinate stands for itself and, n higher, for its inverse.
    rows, columns = [np.empty(0, int)], [np.empty(0, int)]
    for link in links:
        flip = n if link.dual and symmetry is SCALE else 0
        rows += [link.a, link.a + n]
        columns += [link.b + flip, link.b + n - flip]
    a, b = np.concatenate(rows), np.concatenate(columns)
    graph = coo_array((np.ones(len(a), np.int8), (a, b)), shape=(2 * n, 2 * n))
    _, labels = connected_components(graph, directed=False)
    upper, lower = labels[:n], labels[n:]
    _, classes = np.unique(np.minimum(upper, lower), return_inverse=True)
    return classes.reshape(-1), upper > lower, upper == lower


def _signatures(
    trace: Trace, symmetry: Symmetry, classes: np.ndarray, strand: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Of each class two numbers: what it meets, and at which places of what treats them apart.

    Sums of random numbers, one for each thing met by each strand: equal sums mean equal things,
    but for chance (about 1e-19 a pair).
    """
    rng = np.random.default_rng(0)
    count = int(classes.max(initial=-1)) + 1
    whole, apart = np.zeros(count, np.uint64), np.zeros(count, np.uint64)

    def draw(size: int = 1) -> np.ndarray:
        return rng.integers(0, 2**64, size, np.uint64)

    for ids in (port.ids.ravel() for port in trace.ports):
        np.add.at(whole, classes[ids], _mixed(draw(), strand[ids]))
    for ids in (limit.ids for limit in trace.limits):
        np.add.at(whole, classes[ids], _mixed(draw(), strand[ids]))
    for part in trace.parts:
        numbers = draw(int(part.labels.max(initial=0)) + 1)
        np.add.at(whole, classes[part.ids], draw())
        np.add.at(apart, classes[part.ids], _mixed(numbers[part.labels], strand[part.ids]))
    if symmetry is not SCALE:
        for link in trace.links:
            if symmetry in link.symmetry:
                one, other = strand[link.a], strand[link.b]
                np.add.at(whole, classes[link.a], _mixed(_mixed(draw(), one), other))
    return whole, apart


def _mixed(numbers: np.ndarray, strand: np.ndarray) -> np.ndarray:
    """Random numbers, others for each strand (Vigna's splitmix64)."""
    mixed = numbers + (strand.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _pairs(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """A label for each place, equal where both ``a`` and ``b`` are."""
    (_, first), (second, other) = (np.unique(each, return_inverse=True) for each in (a, b))
    return first.reshape(-1) * len(second) + other.reshape(-1)


def _by_first(labels: np.ndarray) -> np.ndarray:
    """Labels renumbered in the order in which they first come."""
    _, first, places = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), int)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[places.reshape(-1)]


def _numbered_within(space_of: np.ndarray, block_of: np.ndarray) -> np.ndarray:
    """Blocks numbered from 0 within the space that each belongs to, in their order."""
    owner = np.zeros(int(block_of.max(initial=-1)) + 1, int)
    owner[block_of] = space_of
    order = np.argsort(owner, kind="stable")
    number = np.empty_like(order)
    number[order] = _running(owner[order])
    return number[block_of]


def _running(*keys: np.ndarray) -> np.ndarray:
    """0, 1, 2… within each run of equal keys."""
    if not len(keys[0]):
        return np.empty(0, int)
    new = np.zeros(len(keys[0]), bool)
    new[0] = True
    for key in keys:
        new[1:] |= key[1:] != key[:-1]
    starts = np.flatnonzero(new)
    return np.arange(len(new)) - np.repeat(starts, np.diff([*starts, len(new)]))


def _assemble(
    trace: Trace,
    symmetry: Symmetry,
    classes: np.ndarray,
    inverse: np.ndarray,
    self_dual: np.ndarray,
    strand: np.ndarray,
    tables: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> list[Space]:
    space, block, place = tables
    count = int(space.max(initial=-1)) + 1
    held: dict[int, list[Held]] = defaultdict(list)
    for port in trace.ports:
        ids = port.ids.ravel()
        mine = classes[ids]
        for number in np.unique(space[mine]):
            if number >= 0:
                inside = space[mine] == number
                blocks, places = (np.where(inside, table[mine], -1) for table in (block, place))
                found = Held(port, blocks, places, inverse[ids], strand[ids])
                held[int(number)].append(found)
    limits = defaultdict(list)
    lost = np.zeros(count, int)
    for limit in trace.limits:
        for number in np.unique(space[classes[limit.ids]]):
            if number >= 0:
                limits[int(number)].append((limit.lost, limit.node, limit.reason))
                lost[number] |= limit.lost.value
    both = np.unique(space[classes[self_dual]]) if symmetry is SCALE else np.empty(0, int)
    for number in both[both >= 0]:
        limits[int(number)].append((SCALE, None, "it meets itself: a factor and its inverse"))
        lost[number] |= SCALE.value
    carriers: dict[int, list[ir.Node]] = defaultdict(list)
    for node, coordinate in trace.carriers:
        carriers[int(space[classes[coordinate]])].append(node)
    states = defaultdict(list)
    for state in trace.states:
        ids = state.ids[0, :, 0]
        mine = classes[ids]
        for number in np.unique(space[mine]):
            inside = space[mine] == number
            blocks, places = (np.where(inside, table[mine], -1) for table in (block, place))
            found_state = HeldState(state, blocks, places, inverse[ids], strand[ids])
            states[int(number)].append(found_state)
    sizes, blocks = np.zeros(count, int), np.zeros(count, int)
    known = space >= 0
    np.maximum.at(sizes, space[known], place[known] + 1)
    np.maximum.at(blocks, space[known], block[known] + 1)
    coordinates = _by_space(count, classes, inverse, tables)
    return [
        Space(
            symmetry,
            int(sizes[number]),
            int(blocks[number]),
            ALL & ~Symmetry(int(lost[number])),
            coordinates[number],
            tuple(held[number]),
            tuple(limits[number]),
            Counter(node.op_type for node in carriers[number]),
            tuple(dict.fromkeys(carriers[number])),
            tuple(states[number]),
        )
        for number in range(count)
    ]


def _by_space(
    count: int,
    classes: np.ndarray,
    inverse: np.ndarray,
    tables: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> list[Coordinates]:
    space, block, place = (table[classes] for table in tables)
    order = np.argsort(space, kind="stable")
    starts = np.searchsorted(space[order], np.arange(count + 1))
    found = (order[a:b] for a, b in itertools.pairwise(starts))
    return [Coordinates(ids, block[ids], place[ids], inverse[ids]) for ids in found]
