"""Walk over a model's sites in the order of the data, with the Gram matrix of what each reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis.sites import Site
from bitfold.passes.calibrate.gram import reading_of
from bitfold.passes.calibrate.levels import Levels
from bitfold.passes.calibrate.part import Part
from bitfold.passes.calibrate.shrinkage import MeanOfGrams
from bitfold.passes.calibrate.token_weights import KeptWeights, TokenWeights
from bitfold.passes.core.context import Feeds
from bitfold.passes.core.own_coordinates import to_own
from bitfold.runtime.errors import CalibrationError


@dataclass(frozen=True)
class Step:
    """Sites that read nothing of each other.

    Attributes:
        sites: in the order in which they were given.
        grams: by :func:`reading`, ``x x^T`` over its rows, in the mean.
        tokens: how much rows count, by a site's node.
    """

    sites: list[Site]
    grams: dict[str, MeanOfGrams]
    tokens: Mapping[ir.Node, TokenWeights]

    def gram(self, site: Site) -> np.ndarray:
        """The Gram matrix of what one of the sites reads on the samples, f64[K, K]."""
        return self.grams[reading(site, self.tokens)].mean

    def likely_gram(self, site: Site) -> np.ndarray:
        """What it is likely to be on other samples, f64[K, K]."""
        return self.grams[reading(site, self.tokens)].shrunk


def reading(site: Site, tokens: Mapping[ir.Node, TokenWeights]) -> str:
    """What a site reads and how its rows count: with the same words, the same Gram matrix."""
    counted = tokens.get(site.node)
    return reading_of(site) if counted is None else f"{reading_of(site)} by {counted.key}"


def walk(
    model: ir.Model,
    sites: Sequence[Site],
    samples: Sequence[Feeds],
    tokens: Mapping[ir.Node, TokenWeights] = {},
    known: KeptWeights | None = None,
) -> Iterator[Step]:
    """Yield the sites in steps; between two steps, those of the first run on all samples.

    Whoever walks may change the sites of a step before asking for the next: what follows then sees
    what the changed sites give (sequential calibration).  Each part of the graph runs once a
    sample; only what later parts need is kept, on disk if it is much: memory grows neither with
    depth nor with the samples.

    Args:
        model: its graph is sorted; inputs, and values that sites read, keep their names.
        sites: of the main graph; no Gathers, no convolutions with groups.
        samples: in the original coordinates.
        tokens: how much the rows count that a site reads, by its node; all alike by default.
            Weights that need what the site gives are taken from what it gives before it is changed.
        known: holds those of an earlier run, in which some sites were changed that are not walked
            over now; new ones go there.

    Raises:
        CalibrationError: what a site reads is not finite on a sample.
    """
    levels = Levels(model.graph, [site.node for site in sites])
    steps: list[list[Site]] = [[] for _ in range(levels.count)]
    due: dict[str, tuple[int, TokenWeights]] = {}
    for site in sites:
        cut = levels.of_site[site.node]
        steps[cut].append(site)
        counted = tokens.get(site.node)
        if counted is not None:
            first = min(cut, max(map(levels.of_value, counted.reads), default=0))
            due[counted.key] = min(
                due.get(counted.key, (first, counted)), (first, counted), key=_at
            )
    feeds = [to_own(model.graph.inputs, each) for each in samples]
    alive: list[Feeds] = [{} for _ in samples]
    weights: list[Feeds] = [{} for _ in samples]
    for cut, step in enumerate(steps):
        wanted = {reading(site, tokens): site for site in step}
        new = []
        for counted in (each for first, each in due.values() if first == cut):
            found = None if known is None else known.recall(counted.key)
            if found is None:
                new.append(counted)
                continue
            for counts, array in zip(weights, found, strict=True):
                counts[counted.key] = array
        part = Part(model, wanted, levels.born(cut), tokens, new)
        grams = part.run(feeds, alive, weights)
        if known is not None:
            for counted in new:
                known.keep(counted.key, [counts[counted.key] for counts in weights])
        bad = [name for name, gram in grams.items() if not np.isfinite(gram.mean).all()]
        if bad:
            raise CalibrationError(
                f"{wanted[bad[0]].name} reads {wanted[bad[0]].data.name!r}, which is not finite "
                "on the samples",
                "give other inputs with --calibration, or leave the site out with --exclude",
            )
        yield Step(step, grams, tokens)
        for kept in alive:
            for name in levels.dead(cut, list(kept)):
                del kept[name]


def _at(due: tuple[int, TokenWeights]) -> int:
    return due[0]
