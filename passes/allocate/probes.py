"""How much a model's outputs move when one weight alone is rounded, or all inputs of weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from bitfold.passes.core.base import Pass
from bitfold.passes.core.compare import compare_outputs
from bitfold.passes.core.context import Context, Feeds
from bitfold.passes.core.spool import let_go_of_all
from bitfold.passes.core.stage import Stage, snapshot

ROWS = 128
"""Rows of an output that are compared: more would cost more than running the model."""

Rounded = Callable[[], np.ndarray]
"""Makes a rounded weight, in the order in which it is stored."""


def moved_alone(
    model: ir.Model, weights: Iterable[tuple[ir.Value, Rounded]], samples: Sequence[Feeds]
) -> Iterator[float]:
    """Yield the distance of the outputs with one weight rounded, for each of ``weights``.

    One session serves all: the weights are inputs of it, and all but one are fed as they are.

    Args:
        weights: initializers of the main graph, each with what rounds it.
        samples: to run, in the original coordinates.
    """
    weights = list(weights)
    opened = snapshot(model)
    own = {}
    for source, _ in weights:
        assert source.const_value is not None, "an initializer has a value"
        own[str(source.name)] = source.const_value.numpy()
        value = opened.graph.initializers.pop(str(source.name))
        value.const_value = None
        opened.graph.inputs.append(value)
    stage = Stage(opened, samples)
    reference = [thinned(stage.run({**each, **own})) for each in samples]
    for source, rounded in weights:
        changed = {**own, str(source.name): rounded()}
        runs = (thinned(stage.run({**each, **changed})) for each in samples)
        yield compare_outputs(zip(reference, runs, strict=True)).distance


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
