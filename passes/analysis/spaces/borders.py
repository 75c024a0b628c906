"""Where a space must be left, and entered again, for a change that not all of it allows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis.spaces.space import Space
from bitfold.passes.analysis.spaces.symmetry import Symmetry
from bitfold.passes.analysis.spaces.trace import Trace

_MOVES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose")
"""What may lie between the operator that gives a space's channels and where these are entered."""

_SIZES = ("Shape", "Size")
"""What looks at no element."""


@dataclass(frozen=True)
class Exit:
    """A value [..., channels] that some read as it was before the change.

    Attributes:
        uses: who reads it so: nodes, and as which of their inputs.
        output: whether it is an output of the model, too.
    """

    value: ir.Value
    uses: tuple[tuple[ir.Node, int], ...]
    output: bool


@dataclass(frozen=True)
class Entry:
    """A value [..., channels] that is made as it was before the change.

    Attributes:
        unchanged: its readers that want it so.
        output: whether it is an output of the model, too, which stays as it is.
    """

    value: ir.Value
    unchanged: tuple[tuple[ir.Node, int], ...]
    output: bool


@dataclass(frozen=True)
class Inside:
    """A space without the operators that rule a change out.

    Attributes:
        space: without the parameters of those operators.
        exits: what they read.
        entries: what they give.
    """

    space: Space
    exits: tuple[Exit, ...]
    entries: tuple[Entry, ...]

    @property
    def borders(self) -> int:
        """Operators that it takes: one for each value that crosses."""
        return len(self.exits) + len(self.entries)


def inside(
    model: ir.Model,
    trace: Trace,
    space: Space,
    symmetry: Symmetry,
    outside: Iterable[ir.Node] = (),
) -> Inside | str:
    """Leave out of a space what rules ``symmetry`` out, or why that is not possible.

    Args:
        outside: further operators to leave out.
    """
    limits = [limit for limit in space.limits if limit[0] & symmetry]
    nodes = list(dict.fromkeys([*(node for _, node, _ in limits if node is not None), *outside]))
    reading: dict[ir.Value, list[tuple[ir.Node, int]]] = {}
    giving: dict[ir.Value, None] = {}
    for node in nodes:
        if any(_is_graph(attribute) for attribute in node.attributes.values()):
            return f"{node.op_type} {node.name} has graphs of its own"
        for index, value in enumerate(node.inputs):
            if value is not None and _meets(trace, space, value):
                reading.setdefault(value, []).append((node, index))
        for value in node.outputs:
            if _meets(trace, space, value):
                giving[_last(trace, space, value)] = None
    states = {state.kept for state in trace.states}
    outputs = [v for v in model.graph.outputs if v not in states and _meets(trace, space, v)]
    for value in outputs:
        reading.setdefault(value, [])
    for value in (*reading, *giving):
        if not _is_whole(trace, space, value):
            return f"{value.name} has its channels in another order, or on another axis"
    entering = [Entry(each, tuple(reading.pop(each, ())), each in outputs) for each in giving]
    entries = tuple(each for each in entering if len(each.unchanged) < len(each.value.uses()))
    exits = tuple(Exit(value, tuple(uses), value in outputs) for value, uses in reading.items())
    left = set(nodes)
    kept = replace(
        space,
        held=tuple(held for held in space.held if held.port.op not in left),
        limits=tuple(limit for limit in space.limits if limit not in limits),
    )
    return Inside(kept, exits, entries)


def insert_entry(entry: Entry, nodes: Sequence[ir.Node]) -> None:
    """Put ``nodes``, a chain that begins with the entry's value, behind it."""
    value, last = entry.value, nodes[-1].outputs[0]
    uses = [(use.node, use.idx) for use in value.uses() if use.node not in nodes]
    producer = value.producer()
    assert producer is not None, "entries are outputs of nodes"
    assert isinstance(producer.graph, ir.Graph), "spaces are those of the main graph"
    producer.graph.insert_after(producer, nodes)
    for node, index in uses:
        if (node, index) not in entry.unchanged:
            node.replace_input_with(index, last)


def insert_exit(model: ir.Model, leaving: Exit, nodes: Sequence[ir.Node]) -> None:
    """Put ``nodes``, a chain that begins with the exit's value, in front of who reads it."""
    value, last = leaving.value, nodes[-1].outputs[0]
    producer = value.producer()
    assert producer is not None, "a space is written by nodes"
    assert isinstance(producer.graph, ir.Graph), "spaces are those of the main graph"
    producer.graph.insert_after(producer, nodes)
    for node, index in leaving.uses:
        node.replace_input_with(index, last)
    if leaving.output:
        value.name, last.name = f"{value.name}/inside", value.name
        for index, output in enumerate(model.graph.outputs):
            if output is value:
                model.graph.outputs[index] = last


def _is_graph(attribute: ir.Attr) -> bool:
    return attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def _meets(trace: Trace, space: Space, value: ir.Value) -> bool:
    ids = trace.ids(value)
    return ids is not None and bool((space.coordinates.of(ids)[0] >= 0).any())


def _last(trace: Trace, space: Space, value: ir.Value) -> ir.Value:
    """``value``, or what Reshapes and Transposes bring its channels to the last axis as."""
    found = value
    while not _is_whole(trace, space, found):
        uses = [use for use in found.uses() if use.node.op_type not in _SIZES]
        if len(uses) != 1 or uses[0].idx or found.is_graph_output():
            return value
        user = uses[0].node
        if user.op_type not in _MOVES or user.domain:
            return value
        found = user.outputs[0]
    return found


def _is_whole(trace: Trace, space: Space, value: ir.Value) -> bool:
    """Whether its last axis is the space's one block, in order."""
    ids = trace.ids(value)
    if ids is None or ids.size != space.size or ids.ndim == 0 or ids.shape[-1] != space.size:
        return False
    return space.blocks == 1 and np.array_equal(
        space.coordinates.of(ids.ravel())[1], np.arange(space.size)
    )
