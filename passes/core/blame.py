"""Which node is to blame, given which values of two models differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from bitfold.runtime.execution import used_names

UNDONE = 50.0
"""A reader undoes a difference where its own output's is this many times smaller."""


@dataclass(frozen=True)
class Difference:
    """The first node at which two models part.

    Attributes:
        node: the node's name in the second model.
        op_type: its operator.
        value: the output that differs.
        error: how far, relative to the value's largest magnitude (inf for NaN or shape).
        added: nodes that only the second model has and that the output is computed through.
    """

    node: str
    op_type: str
    value: str
    error: float
    added: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = f"node {self.node!r} ({self.op_type}): {self.value!r} is off by {self.error:.2g}"
        if self.added:
            text += f", through the new nodes {', '.join(self.added[:4])}"
            text += f" and {len(self.added) - 4} more" if len(self.added) > 4 else ""
        return text


def blame(
    graph: ir.Graph,
    errors: Mapping[str, float],
    differs: Mapping[str, bool],
    floats: set[str],
    roots: Iterable[str],
) -> Difference | None:
    """The first node whose difference reaches one of ``roots``, or None where none differs.

    A pass may change inner values on purpose (folding a gain changes the norm's output and its
    readers undo it), so where some reader of a differing value undoes the difference, those that
    do not are blamed.

    Args:
        errors: relative error of each value that both models name.
        differs: which of these errors are too large.
        floats: which of these values are floats: others agree without undoing anything.
        roots: the values that should not differ: the graph's outputs, say.
    """
    reached = _nodes_behind(graph, differs, roots)
    for node in graph:
        if node in reached and any(differs.get(value.name or "") for value in node.outputs):
            culprit = _unless_undone(node, errors, differs, floats, reached)
            name = next(v.name for v in culprit.outputs if v.name and differs.get(v.name))
            added = _added_before(culprit, errors)
            return Difference(culprit.name or "", culprit.op_type, name, errors[name], added)
    return None


def _added_before(node: ir.Node, known: Mapping[str, float]) -> tuple[str, ...]:
    """Nodes that only the second model has and whose results flow into ``node`` alone or first."""
    added: list[str] = []
    pending = [value.producer() for value in node.inputs if value is not None]
    while pending:
        above = pending.pop()
        if above is None or (above.name or "") in added:
            continue
        if any((value.name or "") in known for value in above.outputs):
            continue
        added.append(above.name or "")
        pending.extend(value.producer() for value in above.inputs if value is not None)
    return tuple(reversed(added))


def _nodes_behind(
    graph: ir.Graph, differs: Mapping[str, bool], roots: Iterable[str]
) -> set[ir.Node]:
    """Nodes from which a difference reaches one of ``roots`` through values not known to agree."""
    producers = {value.name: node for node in graph for value in node.outputs if value.name}
    reached: set[ir.Node] = set()
    pending = [name for name in roots if differs.get(name)]
    while pending:
        node = producers.get(pending.pop())
        if node is None or node in reached:
            continue
        reached.add(node)
        # A value that only one model has is not known to agree: look behind it.
        pending.extend(name for name in used_names(node) if differs.get(name, True))
    return reached


def _unless_undone(
    node: ir.Node,
    errors: Mapping[str, float],
    differs: Mapping[str, bool],
    floats: set[str],
    reached: set[ir.Node],
) -> ir.Node:
    """``node``, or the first guilty reader of its output where another reader undoes it."""
    while True:
        readers = [user for value in node.outputs for user, _ in value.uses()]
        worst = max((errors.get(v.name or "", 0.0) for v in node.outputs), default=0.0)
        # Shapes and comparisons agree without undoing anything: only floats count.  A reader
        # that merely dampens the difference (a sigmoid) does not undo it.
        undone = any(
            v.name in floats and not differs[v.name] and errors[v.name] * UNDONE < worst
            for r in readers
            for v in r.outputs
        )
        guilty = [
            r for r in readers if r in reached and any(differs.get(v.name or "") for v in r.outputs)
        ]
        if not undone or not guilty:
            return node
        node = guilty[0]
