"""Change a space's coordinates: one small operation on every parameter that holds them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis.spaces.space import Held, Space
from bitfold.passes.analysis.spaces.trace import Kind, Role
from bitfold.passes.core.context import Context
from bitfold.passes.core.rewire import constant, new_initializer
from bitfold.passes.transform.rotation import Rotation

CHUNK = 1 << 18
"""Elements that are changed at once, in float64."""

_Use = tuple[ir.Node, int]


class Change(Protocol):
    """A change of coordinates, block by block."""

    def way(self, held: Held) -> object:
        """How it changes a parameter: equal for those that it changes alike; None for not."""
        ...

    def apply(self, rows: np.ndarray, held: Held, block: int) -> np.ndarray:
        """What becomes of a parameter's rows: float64 [R, channels of the block].

        ``held`` tells about these channels alone, in their order.
        """
        ...


@dataclass(frozen=True)
class Rotate:
    """Multiply the channels of each block by its rotation.

    Writers become ``R^T W``, biases ``R^T b`` and readers ``W R``: a rotation's inverse is its
    transpose, so that one product serves them all.  Gains that it passes through are all alike.
    """

    rotations: Sequence[Rotation]

    def way(self, held: Held) -> object:
        """Everything but gains is turned alike."""
        return None if held.port.kind in (Kind.GAIN, Kind.SLOPE) else "turned"

    def apply(self, rows: np.ndarray, held: Held, block: int) -> np.ndarray:
        """``rows R``."""
        return self.rotations[block].apply(rows)


@dataclass(frozen=True)
class Scale:
    """Multiply each channel by its factor, and what reads it by the factor's inverse.

    Attributes:
        factors: float [blocks, channels], positive.
    """

    factors: np.ndarray

    def way(self, held: Held) -> object:
        """Writers and readers, and the two sides of a dual pair, change inversely; slopes stay."""
        if held.port.kind is Kind.SLOPE:
            return None
        return held.port.role, held.inverse.tobytes()

    def apply(self, rows: np.ndarray, held: Held, block: int) -> np.ndarray:
        """Rows times, or divided by, the factors."""
        factors = self.factors[block]
        divided = held.inverse != (held.port.role is Role.READ)
        return rows * np.where(divided, 1 / factors, factors)


@dataclass(frozen=True)
class Center:
    """Subtract the mean over the channels of each block from what writes them."""

    def way(self, held: Held) -> object:
        """What reads channels without their mean needs no change."""
        return "centered" if held.port.role is Role.WRITE else None

    def apply(self, rows: np.ndarray, held: Held, block: int) -> np.ndarray:
        """Rows less their means."""
        centered: np.ndarray = rows - rows.mean(axis=-1, keepdims=True)
        return centered


@dataclass(frozen=True)
class Permute:
    """Bring the channels of each block into another order.

    Attributes:
        orders: int [blocks, channels]; channel i becomes what channel ``orders[b][i]`` was.
    """

    orders: np.ndarray

    def way(self, held: Held) -> object:
        """Everything is reordered alike."""
        return "reordered"

    def apply(self, rows: np.ndarray, held: Held, block: int) -> np.ndarray:
        """Columns in the new order."""
        return rows[:, self.orders[block]]


def shared_elsewhere(space: Space, change: Change, limit: int) -> str:
    """Why the space cannot be changed: a parameter that others read too would be copied.

    Args:
        limit: elements up to which a parameter is copied.
    """
    return next(iter(owners_of_shared(space, change, limit).values()), "")


def owners_of_shared(space: Space, change: Change, limit: int) -> dict[ir.Node, str]:
    """The space's operators whose parameters would be copied, for others read them too, and why.

    Args:
        limit: elements up to which a parameter is copied.
    """
    owners: dict[ir.Node, str] = {}
    for value, uses in _by_value(space, change).items():
        other = next((use.node for use in value.uses() if tuple(use) not in uses), None)
        alike = len({_treatment(helds, change) for helds in uses.values()}) == 1
        size = int(np.prod(value.shape.numpy())) if value.shape is not None else 0
        if (other is not None or not alike) and size > limit:
            reader = other or next(iter(uses))[0]
            text = f"{reader.op_type} {reader.name} reads {value.name} too, in other coordinates"
            owners.update((held.port.op, text) for helds in uses.values() for held in helds)
    return owners


def change_space(space: Space, change: Change, context: Context) -> None:
    """Change every parameter that holds the space.

    One that others read too, or that is to be changed in two ways, is copied
    (:func:`shared_elsewhere` tells beforehand).
    """
    for value, uses in _by_value(space, change).items():
        groups: dict[object, list[_Use]] = defaultdict(list)
        for use, helds in uses.items():
            groups[_treatment(helds, change)].append(use)
        everyone = {tuple(use) for use in value.uses()}
        original = constant(value)
        assert original is not None, "ports are of constants"
        for members in groups.values():
            array = original
            # A gain is both read and written by its operator, but reordered once.
            distinct = {_where(held, change): held for held in uses[members[0]]}
            for held in distinct.values():
                array = _changed(array, held, space, change)
            _store(value, array, members, set(members) == everyone, context)


def _by_value(space: Space, change: Change) -> dict[ir.Value, dict[_Use, list[Held]]]:
    found: dict[ir.Value, dict[_Use, list[Held]]] = defaultdict(lambda: defaultdict(list))
    for held in space.held:
        if change.way(held) is not None:
            value = held.port.node.inputs[held.port.index]
            assert value is not None, "ports are of inputs that are there"
            found[value][held.port.node, held.port.index].append(held)
    return found


def _where(held: Held, change: Change) -> tuple[object, ...]:
    port = held.port
    return port.view, port.axes, held.block.tobytes(), held.place.tobytes(), change.way(held)


def _treatment(helds: Sequence[Held], change: Change) -> frozenset[object]:
    """What two uses of one parameter must have in common to share its changed form."""
    return frozenset(_where(held, change) for held in helds)


def _changed(array: np.ndarray, held: Held, space: Space, change: Change) -> np.ndarray:
    port = held.port
    last = range(-len(port.axes), 0)
    seen = np.moveaxis(array.reshape(port.view), port.axes, last)
    result = np.array(seen, order="C")  # our own, and its rows are views of it
    rows = result.reshape(-1, held.place.size)
    for block in range(space.blocks):
        for places in held.views(block, space.size):
            here = held.at(places)
            step = max(1, CHUNK // space.size)
            for start in range(0, len(rows), step):
                part = rows[start : start + step][:, places].astype(np.float64)
                rows[start : start + step, places] = change.apply(part, here, block)
    return np.moveaxis(result, last, port.axes).reshape(array.shape)


def _store(
    value: ir.Value, array: np.ndarray, uses: Sequence[_Use], all_uses: bool, context: Context
) -> None:
    if all_uses and not value.is_graph_output():
        value.const_value = context.tensor(array, str(value.name))
        return
    graph = uses[0][0].graph
    assert isinstance(graph, ir.Graph), "spaces are those of the main graph"
    copy = new_initializer(graph, context, array, f"{value.name}/{uses[0][0].name}")
    for node, index in uses:
        node.replace_input_with(index, copy)
