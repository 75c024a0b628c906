"""Which node made two models differ, and how far apart two models are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bitfold.passes.core.compare import compare_outputs, is_float, moved_beside_mask
from bitfold.passes.core.context import Feeds
from bitfold.passes.core.noise import rounding_floor
from bitfold.passes.core.report import Divergence
from bitfold.runtime.errors import BitfoldError, VerificationError
from bitfold.runtime.execution import open_session, used_names

CHUNK_BYTES = 256 << 20
"""Inner values are compared in chunks whose arrays fit in about this much memory."""


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


def verify_models(reference: ir.Model, candidate: ir.Model, samples: Iterable[Feeds]) -> Divergence:
    """Run both models on every sample and measure how far the candidate's outputs are off.

    Raises:
        VerificationError: the candidate lacks inputs or outputs that the reference has.
        ModelError, UnsupportedError: one of them does not run.
    """
    old = {value.name for value in reference.graph.outputs}
    new = {value.name for value in candidate.graph.outputs}
    if not old <= new:
        raise VerificationError(
            f"expected outputs {sorted(map(str, old))}, found {sorted(map(str, new))}"
        )
    first = open_session(reference, optimize=False)
    second = open_session(candidate, optimize=False)
    return compare_outputs((first.run(feeds), second.run(feeds)) for feeds in samples)


def first_difference(
    before: ir.Model, after: ir.Model, feeds: Feeds, tolerance: float | None = None
) -> Difference | None:
    """Find the first node of ``after`` whose output differs though its inputs agree.

    Inner values that both models name are compared, in chunks that bound the memory, and a
    difference is followed from the outputs back to where it began.  A pass may change inner
    values on purpose (folding a gain changes the norm's output and its readers undo it), so
    where some reader of a differing value undoes the difference, those that do not are blamed.

    Args:
        tolerance: relative to a value's largest magnitude; rounding's floor by default.

    Returns:
        None where no output of the graph differs.
    """
    limit = rounding_floor(before) if tolerance is None else tolerance
    errors, floats = _shared_errors(before, after, feeds)
    differs = {name: error > limit for name, error in errors.items()}
    reached = _nodes_behind(after.graph, differs)
    for node in after.graph:
        if node in reached and any(differs.get(v.name or "") for v in node.outputs):
            culprit = _unless_undone(node, differs, floats, reached)
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


def _nodes_behind(graph: ir.Graph, differs: Mapping[str, bool]) -> set[ir.Node]:
    """Nodes from which a difference reaches an output through values not known to agree."""
    producers = {value.name: node for node in graph for value in node.outputs if value.name}
    reached: set[ir.Node] = set()
    pending = [v.name or "" for v in graph.outputs if differs.get(v.name or "")]
    while pending:
        node = producers.get(pending.pop())
        if node is None or node in reached:
            continue
        reached.add(node)
        # A value that only one model has is not known to agree: look behind it.
        pending.extend(name for name in used_names(node) if differs.get(name, True))
    return reached


def _unless_undone(
    node: ir.Node, differs: Mapping[str, bool], floats: set[str], reached: set[ir.Node]
) -> ir.Node:
    """``node``, or the first guilty reader of its output where another reader undoes it."""
    while True:
        readers = [user for value in node.outputs for user, _ in value.uses()]
        # Shapes and comparisons agree without undoing anything: only floats count.
        undone = any(v.name in floats and not differs[v.name] for r in readers for v in r.outputs)
        guilty = [
            r for r in readers if r in reached and any(differs.get(v.name or "") for v in r.outputs)
        ]
        if not undone or not guilty:
            return node
        node = guilty[0]


def _shared_errors(
    before: ir.Model, after: ir.Model, feeds: Feeds
) -> tuple[dict[str, float], set[str]]:
    """The relative error of every value that both models name, and which of them are floats."""
    ours = set(_computed(before.graph))
    shared = [name for name in _computed(after.graph) if name in ours]
    errors: dict[str, float] = {}
    floats: set[str] = set()
    size, start = 16, 0
    while start < len(shared):
        chunk = shared[start : start + size]
        nbytes = _compare_chunk(before, after, feeds, chunk, errors, floats)
        start += len(chunk)
        per_value = max(1, nbytes // max(1, len(chunk)))
        size = int(np.clip(CHUNK_BYTES // per_value, 1, 4 * size))
    return errors, floats


def _computed(graph: ir.Graph) -> Iterator[str]:
    return (value.name for node in graph for value in node.outputs if value.name)


def _compare_chunk(
    before: ir.Model,
    after: ir.Model,
    feeds: Feeds,
    names: list[str],
    errors: dict[str, float],
    floats: set[str],
) -> int:
    """Fill ``errors`` and ``floats`` for ``names``; return how many bytes both runs gave."""
    try:
        expected = open_session(before, outputs=names, optimize=False).run(feeds)
        found = open_session(after, outputs=names, optimize=False).run(feeds)
    except BitfoldError:
        if len(names) == 1:
            return 0  # a value that cannot be an output (a sequence, say) tells nothing
        half = len(names) // 2
        return sum(
            _compare_chunk(before, after, feeds, part, errors, floats)
            for part in (names[:half], names[half:])
        )
    nbytes = 0
    for name in names:
        if not isinstance(expected[name], np.ndarray) or not isinstance(found[name], np.ndarray):
            continue
        errors[name] = moved_beside_mask(expected[name], found[name]).max_error
        if is_float(expected[name]):
            floats.add(name)
        nbytes += expected[name].nbytes + found[name].nbytes
    return nbytes
