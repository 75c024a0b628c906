"""How much a model's outputs move when one weight alone is rounded, or all inputs of weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from bitfold.passes.allocate.tail import Tail, array_of
from bitfold.passes.core.base import Pass
from bitfold.passes.core.compare import compare_outputs, flat_outputs
from bitfold.passes.core.context import Context, Feeds
from bitfold.passes.core.own_coordinates import to_original, to_own
from bitfold.passes.core.spool import Spool, let_go, let_go_of_all
from bitfold.passes.core.stage import Stage, snapshot
from bitfold.runtime.execution import open_session

ROWS = 128
"""Rows of an output that are compared: more would cost more than running the model."""

TOGETHER = 16
"""Weights that share a session: fewer would run less of the model each, and open more sessions."""

Rounded = Callable[[], np.ndarray]
"""Makes a rounded weight, in the order in which it is stored."""


def moved_alone(
    model: ir.Model, weights: Iterable[tuple[ir.Value, Rounded]], samples: Sequence[Feeds]
) -> Iterator[float]:
    """Yield the distance of the outputs with one weight rounded, for each of ``weights``.

    Some that follow each other share a session, which runs what they can change, and no more: they
    are inputs of it, and all but one are fed as they are.

    Args:
        weights: initializers of the main graph, each with what rounds it.
        samples: to run, in the original coordinates.
    """
    weights = list(weights)
    parts = [weights[start : start + TOGETHER] for start in range(0, len(weights), TOGETHER)]
    tails = [Tail.of(model.graph, [str(source.name) for source, _ in part]) for part in parts]
    reference, given = _run_whole(model, tails, samples)
    for part, tail in zip(parts, tails, strict=True):
        session = tail.session(model, given[0])
        own = {str(source.name): array_of(source) for source, _ in part}
        for source, rounded in part:
            changed = {**own, str(source.name): rounded()}
            runs = []
            for sample, known, before in zip(samples, given, reference, strict=True):
                feeds = {**to_own(model.graph.inputs, sample), **tail.feeds(known), **changed}
                found = to_original(model.graph.outputs, flat_outputs(session.run(feeds)))
                runs.append({**before, **thinned(found)})
            yield compare_outputs(zip(reference, runs, strict=True)).distance
        for source, _ in part:
            let_go(source.const_value)


def _run_whole(
    model: ir.Model, tails: Sequence[Tail], samples: Sequence[Feeds]
) -> tuple[list[dict[str, np.ndarray]], list[Feeds]]:
    """For each sample, the outputs, thinned, and what the tails read from before."""
    outputs = [str(value.name) for value in model.graph.outputs]
    kept = sorted({name for tail in tails for name in tail.given} - set(outputs))
    session, spool = open_session(model, outputs=[*outputs, *kept], optimize=False), Spool()
    reference: list[dict[str, np.ndarray]] = []
    given: list[Feeds] = []
    for sample in samples:
        found = session.run(to_own(model.graph.inputs, sample))
        # What is no tensor, as a sequence, is computed again.
        known = {name: each for name, each in found.items() if isinstance(each, np.ndarray)}
        wanted = {name for tail in tails for name in tail.given}
        given.append({n: spool.hold(each, n) for n, each in known.items() if n in wanted})
        flat = flat_outputs({name: found[name] for name in outputs})
        reference.append(thinned(to_original(model.graph.outputs, flat)))
    return reference, given


def moved_by(item: Pass, model: ir.Model, samples: Sequence[Feeds]) -> float:
    """The distance of the outputs when a pass has changed a copy of the model."""
    changed = snapshot(model)
    with Context(samples) as context:
        item.run(changed, context)
        runs = [_outputs(each, samples) for each in (model, changed)]
    return compare_outputs(zip(*runs, strict=True)).distance


def _outputs(model: ir.Model, samples: Sequence[Feeds]) -> list[dict[str, np.ndarray]]:
    """Outputs, thinned, of a model that has no session when it is called, and none after."""
    let_go_of_all(model)  # the session reads the files itself
    stage = Stage(model, samples)
    return [thinned(stage.run(each)) for each in samples]


def thinned(outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Outputs with up to :data:`ROWS` of their rows (last axis), spread over all of them."""
    thin = {}
    for name, array in outputs.items():
        if array.ndim > 1 and array.size > array.shape[-1] * ROWS:
            rows = array.reshape(-1, array.shape[-1])
            places = np.linspace(0, len(rows) - 1, ROWS).astype(int)
            array = rows[places]
        thin[name] = array
    return thin
