"""How long a site's alternatives take on this machine, and how long whole models do."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from bitfold.frontend.timing import time_in_turns
from bitfold.passes.core.context import Context, Feeds
from bitfold.passes.core.targets import Target
from bitfold.passes.lower.lower import Lower
from bitfold.passes.quantize.quantize import Quantize
from bitfold.runtime.errors import UnsupportedError
from bitfold.runtime.execution import open_session

FLOAT = "float"

AT_ONCE = 64
"""Values whose shapes are taken from one run."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class SiteTimes:
    """Times of one site's alternatives.

    Attributes:
        shapes: of the site's input, on the samples.
        seconds: for each alternative, a run's time on each of the shapes.
    """

    shapes: tuple[Shape, ...]
    seconds: dict[str, list[float]]

    def __str__(self) -> str:
        times = (
            f"{name} " + "/".join(f"{1e3 * each:.3g}" for each in times)
            for name, times in self.seconds.items()
        )
        shapes = ", ".join("x".join(map(str, shape)) for shape in self.shapes)
        return f"{', '.join(times)} ms on {shapes}"


def input_shapes(
    model: ir.Model, values: Iterable[ir.Value], samples: Sequence[Feeds]
) -> dict[ir.Value, list[Shape]]:
    """The distinct shapes that ``values`` of the graph have on the samples, in their order."""
    wanted = {str(value.name): value for value in dict.fromkeys(values)}
    found: dict[ir.Value, list[Shape]] = {value: [] for value in wanted.values()}
    names = list(wanted)
    for start in range(0, len(names), AT_ONCE):
        part = names[start : start + AT_ONCE]
        session = open_session(
            model, outputs=[n for n in part if not wanted[n].is_graph_input()], optimize=False
        )
        for feeds in samples:
            arrays = {**feeds, **session.run(feeds)}
            for name in part:
                shape = tuple(arrays[name].shape)
                if shape not in found[wanted[name]]:
                    found[wanted[name]].append(shape)
    return found


def time_site(
    fragment: ir.Model, quantize: Quantize, lower: Lower, shapes: Sequence[Shape], threads: int
) -> SiteTimes | None:
    """Time a site in float and in low bits, on random inputs of these shapes.

    Args:
        fragment: the site alone (:func:`~bitfold.passes.analysis.fragments.cut_site`).

    Returns:
        The times; None where the recipe does not quantize the site, or the target refuses it.
    """
    targets: list[Target] = [lower.target]
    if lower.target == "native":
        targets.append("ort")
    with Context() as context:
        models = {FLOAT: fragment}
        for target in targets:
            low = fragment.clone()
            # The scales' values do not matter here.
            if not replace(quantize, ranges="minmax").run(low, context):
                return None
            try:
                replace(lower, target=target, stock=()).run(low, context)
            except UnsupportedError:
                continue
            models[target] = low
        if lower.target not in models:
            return None
        name = str(fragment.graph.inputs[0].name)
        rng = np.random.default_rng(0)
        feeds = [{name: rng.standard_normal(shape, np.float32)} for shape in shapes]
        return SiteTimes(tuple(shapes), time_models(models, feeds, threads))


def time_models(
    models: Mapping[str, ir.Model], samples: Sequence[Feeds], threads: int
) -> dict[str, list[float]]:
    """Seconds that each model takes on each sample, as ORT runs them at their best, in turns."""
    sessions = {
        name: open_session(model, threads=threads, spin=True) for name, model in models.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for feeds in samples:
        for name, each in time_in_turns(sessions, feeds).items():
            seconds[name].append(each)
    return seconds


def relative_times(seconds: Mapping[str, Sequence[float]], base: str) -> dict[str, float]:
    """Each one's time over that of ``base``: the geometric mean over the samples."""
    return {
        name: statistics.geometric_mean(
            each / other for each, other in zip(times, seconds[base], strict=True)
        )
        for name, times in seconds.items()
    }
