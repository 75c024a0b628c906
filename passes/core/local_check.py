"""Compare two models piece by piece, each piece on the same inputs.

A model that rounds on purpose is chaotic: a rounding error moves an activation over the edge of
a code, and twenty layers later everything has moved by percents.  End to end, such noise hides
the errors of a wrong pass.  Cut into pieces at the values that both models name, with the first
model's values fed to every piece of the second, nothing accumulates and little can hide.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from bitfold.passes.core.blame import Difference, blame
from bitfold.passes.core.compare import Moved, is_float, moved_beside_mask
from bitfold.passes.core.context import Feeds
from bitfold.passes.core.spool import Spool
from bitfold.passes.core.verify import computed_names
from bitfold.runtime.execution import open_session, used_names

LOCAL_RMS, LOCAL_MAX = 1e-3, 5e-2
"""How far one piece may move a value: a code that falls to the other side moves a few elements
far, and all of them together very little; an error in a weight or a scale moves them all.  Codes
of 8 bits are meant: fewer bits have longer steps."""

ON_PURPOSE = 0.3
"""A value whose root mean square error is above this was changed on purpose: no cut there."""

ROUNDS = 4
"""Cuts at which the models differ are given up, this many times; then the pass is wrong."""

CUT_BYTES = 512 << 20
"""Values at which the model is cut take up this much of the disk at most; others stay inside."""

_CHUNK = 128


def local_difference(before: ir.Model, after: ir.Model, feeds: Feeds) -> Difference | None:
    """Find the first node of ``after`` that computes something else from the same inputs.

    1. Cut ``after`` at every float value that both models name, unless it was evidently changed
       on purpose (it differs grossly), and feed each cut ``before``'s value.
    2. A cut where a piece gives another value is given up, and so are those its readers then
       miss; where a difference is undone further on (a folded gain), no new one appears.
    3. The models agree when no new difference appears.  They do not when an output of the graph
       differs, or when differences keep spreading.
    4. In a model that few bits made so chaotic that noise alone moves values grossly, too few
       cuts were left: try again with every cut.  Pieces that agree on the same inputs agree.

    Returns:
        None where the models agree.
    """
    constant = _constant_names(after.graph)
    step = _longest_step(before.graph)
    expected = _values(before, after, feeds, constant)
    end_to_end = _compare(after, feeds, expected, list(expected))
    cuts = {name for name, moved in end_to_end.items() if moved.rms_error < ON_PURPOSE}
    verdict = _between_cuts(after, feeds, expected, cuts, constant, step)
    if verdict is not None and len(cuts) < len(expected):
        again = _between_cuts(after, feeds, expected, set(expected), constant, step)
        verdict = None if again is None else verdict
    return _within_weights(before, after, feeds, constant, verdict, step) or verdict


def _between_cuts(
    after: ir.Model,
    feeds: Feeds,
    expected: Feeds,
    cuts: set[str],
    constant: set[str],
    step: float,
) -> Difference | None:
    """The first node that differs where ``after`` is given ``expected`` values at ``cuts``."""
    outputs = {value.name or "" for value in after.graph.outputs}
    known: set[str] = set()
    apart: dict[str, Moved] = {}
    stale = set(expected)
    verdict = None
    for _ in range(ROUNDS):
        given = {**feeds, **{_given_name(name): expected[name] for name in cuts}}
        names = [name for name in expected if name in stale]
        apart.update(_compare(_cut(after, cuts, expected), given, expected, names))
        differs = {name: _too_far(moved, step) for name, moved in apart.items()}
        wrong = {name for name, bad in differs.items() if bad}
        fresh = wrong - known
        roots = fresh | (wrong & outputs)
        if not roots:
            return None
        errors = {name: moved.max_error for name, moved in apart.items()}
        floats = set(errors)
        # What weights alone decide is not compared here, but it is in both models: not new.
        errors.update((name, 0.0) for name in constant if name not in errors)
        verdict = blame(after.graph, errors, differs, floats, roots)
        if not fresh:
            break
        known |= wrong
        cuts = cuts - wrong
        stale = _downstream(after.graph, wrong, cuts)
    return verdict


def _too_far(moved: Moved, step: float) -> bool:
    return moved.rms_error > LOCAL_RMS * step or moved.max_error > min(1.0, LOCAL_MAX * step)


def _longest_step(graph: ir.Graph) -> float:
    """The longest step between activation codes, in those of 8 bits."""
    rounding = (node for node in graph if node.op_type == "QuantizeActivation")
    bits = min((node.attributes.get_int("bits", 8) for node in rounding), default=8)
    return 127 / max(1, (1 << (bits - 1)) - 1)


def _values(before: ir.Model, after: ir.Model, feeds: Feeds, constant: set[str]) -> Feeds:
    """The first model's values at the places where the second may be cut, outputs first.

    What is computed from weights alone stays inside the pieces: it would be as large as these.
    """
    ours = set(computed_names(before.graph))
    outputs = [value.name or "" for value in after.graph.outputs]
    inner = [name for name in computed_names(after.graph) if name not in outputs]
    names = [name for name in [*outputs, *inner] if name in ours - constant]
    values: Feeds = {}
    used, spool = 0, Spool()
    for start in range(0, len(names), _CHUNK):
        part = names[start : start + _CHUNK]
        for name, array in open_session(before, outputs=part, optimize=False).run(feeds).items():
            if is_float(array) and used + array.nbytes <= CUT_BYTES:
                values[name] = spool.hold(array, name)
                used += array.nbytes
    return values


def _constant_names(graph: ir.Graph) -> set[str]:
    """Names of the values that depend on no input of the graph."""
    constant = set(graph.initializers)
    for node in graph:
        if used_names(node) - {""} <= constant:
            constant.update(value.name for value in node.outputs if value.name)
    return constant


def _within_weights(
    before: ir.Model,
    after: ir.Model,
    feeds: Feeds,
    constant: set[str],
    found: Difference | None,
    step: float,
) -> Difference | None:
    """Look for the difference in what ``found`` reads that is computed from weights alone."""
    if found is None:
        return None
    ours = set(computed_names(before.graph))
    producers = {value.name: node for node in after.graph for value in node.outputs}
    pending = [producers[found.value]]
    behind: set[ir.Node] = set()
    while pending:
        for name in used_names(pending.pop()) & constant:
            if name in producers and producers[name] not in behind:
                behind.add(producers[name])
                pending.append(producers[name])
    for node in after.graph:
        names = [value.name for value in node.outputs if value.name in ours]
        if node not in behind or not names:
            continue
        expected = open_session(before, outputs=names, optimize=False).run(feeds)
        for name, apart in _compare(after, feeds, expected, names).items():
            if _too_far(apart, step):
                return Difference(node.name or "", node.op_type, name, apart.max_error)
    return None


def _cut(model: ir.Model, cuts: Iterable[str], values: Feeds) -> ir.Model:
    """A clone in which whatever reads a cut value reads a new graph input instead."""
    clone = model.clone()
    graph = clone.graph
    computed = {value.name: value for node in graph for value in node.outputs}
    for name in sorted(cuts):
        array = values[name]
        given = ir.Value(name=_given_name(name))
        given.dtype = ir.DataType.from_numpy(array.dtype)
        given.shape = ir.Shape(array.shape)
        for user, index in list(computed[name].uses()):
            user.replace_input_with(index, given)
        graph.inputs.append(given)
    return clone


def _given_name(name: str) -> str:
    return f"{name}/given"


def _compare(model: ir.Model, feeds: Feeds, expected: Feeds, names: list[str]) -> dict[str, Moved]:
    """Compute ``names`` a part at a time (a part of a cut model needs few nodes), and compare."""
    apart: dict[str, Moved] = {}
    for start in range(0, len(names), _CHUNK):
        part = names[start : start + _CHUNK]
        found = open_session(model, outputs=part, optimize=False).run(feeds)
        apart.update((name, moved_beside_mask(expected[name], found[name])) for name in part)
    return apart


def _downstream(graph: ir.Graph, names: set[str], cuts: set[str]) -> set[str]:
    """The values that are computed from ``names`` with no cut in between, up to the next cuts."""
    carrying, reached = set(names), set[str]()
    for node in graph:
        if not carrying.isdisjoint(used_names(node)):
            computed = {value.name for value in node.outputs if value.name}
            reached |= computed
            carrying |= computed - cuts
    return reached
