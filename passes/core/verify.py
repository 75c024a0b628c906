"""Which node made two models differ, and how far apart two models are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import onnx_ir as ir

from bitfold.passes.core.blame import Difference, blame
from bitfold.passes.core.compare import compare_outputs, is_float, moved_beside_mask
from bitfold.passes.core.context import Context, Feeds
from bitfold.passes.core.noise import rounding_floor
from bitfold.passes.core.report import Divergence
from bitfold.passes.core.stage import Stage
from bitfold.passes.core.stand_in import settle
from bitfold.runtime.errors import BitfoldError, VerificationError, naming
from bitfold.runtime.execution import open_session

CHUNK_BYTES = 256 << 20
"""Inner values are compared in chunks whose arrays fit in about this much memory."""


def verify_models(
    reference: ir.Model,
    candidate: ir.Model,
    samples: Iterable[Feeds],
    names: tuple[str, str] = ("the reference", "the candidate"),
) -> Divergence:
    """Run both models on every sample and measure how far the candidate's outputs are off.

    Args:
        names: how errors name the models.

    Raises:
        VerificationError: the candidate lacks inputs or outputs that the reference has.
        ModelError, UnsupportedError: one of them does not run.
    """
    old = {value.name for value in reference.graph.outputs}
    new = {value.name for value in candidate.graph.outputs}
    if not old <= new:
        raise VerificationError(
            f"{names[1]}: expected the outputs {sorted(map(str, old))} of {names[0]}, "
            f"found {sorted(map(str, new))}",
            "compare models that come from one and the same",
        )
    with Context() as context:
        first, second = Stage(reference, ()), Stage(candidate, ())
        for name, stage in zip(names, (first, second), strict=True):
            with naming(name):
                settle(stage, context)

        def outputs(feeds: Feeds) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
            with naming(names[0]):
                expected = first.run(feeds)
            with naming(names[1]):
                return expected, second.run(feeds)

        return compare_outputs(outputs(feeds) for feeds in samples)


def first_difference(
    before: ir.Model, after: ir.Model, feeds: Feeds, tolerance: float | None = None
) -> Difference | None:
    """Find the first node of ``after`` whose output differs though its inputs agree.

    Inner values that both models name are compared, in chunks that bound the memory, and a
    difference is followed from the outputs back to where it began (:mod:`.blame`).

    Args:
        tolerance: relative to a value's largest magnitude; rounding's floor by default.

    Returns:
        None where no output of the graph differs.
    """
    limit = rounding_floor(before) if tolerance is None else tolerance
    errors, floats = _shared_errors(before, after, feeds)
    differs = {name: error > limit for name, error in errors.items()}
    outputs = [value.name or "" for value in after.graph.outputs]
    return blame(after.graph, errors, differs, floats, outputs)


def _shared_errors(
    before: ir.Model, after: ir.Model, feeds: Feeds
) -> tuple[dict[str, float], set[str]]:
    """The relative error of every value that both models name, and which of them are floats."""
    ours = set(computed_names(before.graph))
    shared = [name for name in computed_names(after.graph) if name in ours]
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


def computed_names(graph: ir.Graph) -> Iterator[str]:
    """Names of the values that a graph's nodes compute, in order."""
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
