"""Walk over a model's sites in the order of the data, with the Gram matrix of what each reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis.sites import Site
from bitfold.passes.calibrate.gram import add_gram, reading_of
from bitfold.passes.calibrate.levels import Levels
from bitfold.passes.calibrate.shrinkage import MeanOfGrams
from bitfold.passes.core.context import Feeds
from bitfold.passes.core.own_coordinates import to_own
from bitfold.passes.core.spool import on_disk
from bitfold.runtime.errors import CalibrationError
from bitfold.runtime.execution import open_session


@dataclass(frozen=True)
class Step:
    """Sites that read nothing of each other.

    Attributes:
        sites: in the order in which they were given.
        grams: by what a site reads, ``x x^T`` over its rows, in the mean.
    """

    sites: list[Site]
    grams: dict[str, MeanOfGrams]

    def gram(self, site: Site) -> np.ndarray:
        """The Gram matrix of what one of the sites reads on the samples, f64[K, K]."""
        return self.grams[reading_of(site)].mean

    def likely_gram(self, site: Site) -> np.ndarray:
        """What it is likely to be on other samples, f64[K, K]."""
        return self.grams[reading_of(site)].shrunk


def walk(model: ir.Model, sites: Sequence[Site], samples: Sequence[Feeds]) -> Iterator[Step]:
    """Yield the sites in steps; between two steps, those of the first run on all samples.

    Whoever walks may change the sites of a step before asking for the next: what follows then sees
    what the changed sites give (sequential calibration).  Each part of the graph runs once a
    sample; only what later parts need is kept, on disk if it is much: memory grows neither with
    depth nor with the samples.

    Args:
        model: its graph is sorted; inputs, and values that sites read, keep their names.
        sites: of the main graph; no Gathers, no convolutions with groups.
        samples: in the original coordinates.

    Raises:
        CalibrationError: what a site reads is not finite on a sample.
    """
    levels = Levels(model.graph, [site.node for site in sites])
    steps: list[list[Site]] = [[] for _ in range(levels.count)]
    for site in sites:
        steps[levels.of_site[site.node]].append(site)
    feeds = [to_own(model.graph.inputs, each) for each in samples]
    alive: list[Feeds] = [{} for _ in samples]
    for cut, step in enumerate(steps):
        wanted = {reading_of(site): site for site in step}
        grams = _run_part(model, wanted, levels.born(cut), feeds, alive)
        bad = [name for name, gram in grams.items() if not np.isfinite(gram.mean).all()]
        if bad:
            raise CalibrationError(
                f"{wanted[bad[0]].name} reads {wanted[bad[0]].data.name!r}, which is not finite "
                "on the samples",
                "give other inputs with --calibration, or leave the site out with --exclude",
            )
        yield Step(step, grams)
        for kept in alive:
            for name in levels.dead(cut, list(kept)):
                del kept[name]


def _run_part(
    model: ir.Model,
    wanted: dict[str, Site],
    born: Sequence[str],
    feeds: Sequence[Feeds],
    alive: list[Feeds],
) -> dict[str, MeanOfGrams]:
    """Run what lies between two cuts; keep what is ``born``, and return the Gram matrices."""
    known = {*alive[0], *(str(value.name) for value in model.graph.inputs)}
    read = [str(site.data.name) for site in wanted.values()]
    part = _part(model, known, list(dict.fromkeys([*born, *read])))
    types = {str(value.name): value.dtype for value in part.graph.outputs}
    for value in part.graph.inputs:
        if value.dtype is None:  # not all graphs say the types of inner values
            value.dtype = ir.DataType.from_numpy(alive[0][str(value.name)].dtype)
    names = {
        reading: add_gram(part.graph, site, f"bitfold.gram.{index}")
        for index, (reading, site) in enumerate(wanted.items())
    }
    outputs = [*(name for name in born if name not in known), *names.values()]
    session = open_session(part, outputs=outputs, optimize=False)
    grams = {reading: MeanOfGrams() for reading in names}
    for given, kept in zip(feeds, alive, strict=True):
        found = session.run({**given, **kept})
        for reading, output in names.items():
            grams[reading].add(found.pop(output).astype(np.float64))
        for name, array in found.items():
            kept[name] = on_disk(_of_type(array, types[name]), name)
    return grams


def _of_type(array: np.ndarray, dtype: ir.DataType | None) -> np.ndarray:
    """An output as the graph has it: types that NumPy lacks come out of a run as float32."""
    return array if dtype is None else array.astype(dtype.numpy(), copy=False)


def _part(model: ir.Model, known: set[str], outputs: Sequence[str]) -> ir.Model:
    """A model of the values ``outputs``, given those that are ``known``."""
    values = ir.convenience.create_value_mapping(model.graph, include_subgraphs=False)
    wanted = [values[name] for name in outputs if name not in known]
    # What is known and wanted passes through as an input.
    passing = [values[name] for name in outputs if name in known]
    inputs = [values[name] for name in sorted(known)]
    graph = ir.convenience.extract(model.graph, inputs, [*wanted, *passing])
    return ir.Model(
        graph, ir_version=model.ir_version or 10, functions=list(model.functions.values())
    )
