"""Changes of coordinates that a model has room for, as candidates for trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from glob import escape
from typing import Protocol

import networkx as nx
import onnx_ir as ir

from bitfold.passes.advise.trials import Candidate
from bitfold.passes.analysis.site_weights import other_reader
from bitfold.passes.analysis.sites import find_sites, site_of
from bitfold.passes.analysis.spaces.find_spaces import find_spaces
from bitfold.passes.analysis.spaces.space import Space
from bitfold.passes.analysis.spaces.symmetry import SCALE
from bitfold.passes.analysis.spaces.trace_model import trace_model
from bitfold.passes.core.base import Pass
from bitfold.passes.core.context import Context
from bitfold.passes.core.stage import snapshot
from bitfold.passes.fold.fold_norm_gain import FoldNormGain
from bitfold.passes.transform.ln_to_rms import LnToRms
from bitfold.passes.transform.rotate import SMALLEST, Rotate
from bitfold.passes.transform.smooth import Smooth
from bitfold.passes.transform.split import Split


class Kind(Protocol):
    """A kind of change."""

    @property
    def title(self) -> str:
        """What it does to a place, as a participle."""
        ...

    def candidates(self, model: ir.Model) -> list[Candidate]:
        """Places that it may be made at."""
        ...

    def passes(self, chosen: Sequence[Candidate]) -> list[Pass]:
        """What makes it at some of them."""
        ...


@dataclass(frozen=True)
class FreeRotations:
    """Rotations of whole spaces."""

    title = "rotated"

    def candidates(self, model: ir.Model) -> list[Candidate]:
        """Spaces that may be rotated as the model is."""
        return [_candidate(name, space) for name, space in _rotatable(model)]

    def passes(self, chosen: Sequence[Candidate]) -> list[Pass]:
        """What rotates them."""
        return [Rotate(spaces=_globs(chosen))]


@dataclass(frozen=True)
class FoldedRotations:
    """Rotations of spaces that norms' gains and means must be folded for.

    Attributes:
        untie: elements up to which a weight that others read too is copied.
    """

    untie: int
    title = "folded and rotated"

    def candidates(self, model: ir.Model) -> list[Candidate]:
        """Spaces that may be rotated once that is done, and not before."""
        already = {name for name, _ in _rotatable(model)}
        with Context() as context:
            folded = snapshot(model)
            for item in self._folds():
                item.run(folded, context)
            spaces = _rotatable(folded)
        return [_candidate(name, space) for name, space in spaces if name not in already]

    def passes(self, chosen: Sequence[Candidate]) -> list[Pass]:
        """What folds the norms and rotates them."""
        return [*self._folds(), Rotate(spaces=_globs(chosen))]

    def _folds(self) -> list[Pass]:
        return [FoldNormGain(copy_limit=self.untie), LnToRms()]


@dataclass(frozen=True)
class Smoothings:
    """Outliers of activations moved into the weights that read them.

    Attributes:
        smooth: with the scheme; it chooses the factors of each space, and whether to.
    """

    smooth: Smooth
    title = "smoothed"

    def candidates(self, model: ir.Model) -> list[Candidate]:
        """Spaces that may be scaled as the model is."""
        spaces = find_spaces(trace_model(model), SCALE)
        return [
            _candidate(space.name, space)
            for space in spaces
            if space.readers and not self.smooth.refusal(space)
        ]

    def passes(self, chosen: Sequence[Candidate]) -> list[Pass]:
        """What smooths them."""
        return [replace(self.smooth, spaces=_globs(chosen))]


@dataclass(frozen=True)
class Splits:
    """Channels with outliers in several shares; all spaces have one budget.

    Attributes:
        split: with the scheme; it chooses the channels of each space, and what fits the budget.
    """

    split: Split
    title = "split"

    def candidates(self, model: ir.Model) -> list[Candidate]:
        """Spaces that may be split; those of one reader together.

        Only readers count: what writes a space grows, and loses no more than before.  So no two
        candidates share a site, and all are tried at once, within the budget.
        """
        with Context() as context:
            spaces = self.split.splittable(trace_model(model), context)
        graph = nx.Graph()
        for space in spaces:
            graph.add_edges_from((space.name, held.port.op) for held in space.readers)
        found = []
        for together in nx.connected_components(graph):
            names = tuple(space.name for space in spaces if space.name in together)
            sites = [site_of(node) for node in together if isinstance(node, ir.Node)]
            read = frozenset(site.name for site in sites if site is not None)
            found.append(Candidate(", ".join(names), names, read))
        return found

    def passes(self, chosen: Sequence[Candidate]) -> list[Pass]:
        """What splits them."""
        return [replace(self.split, spaces=_globs(chosen))]


@dataclass(frozen=True)
class OnlineRotations:
    """Rotations of inputs as the model runs, where no free one reaches."""

    title = "rotated online"

    def candidates(self, model: ir.Model) -> list[Candidate]:
        """Sites whose input lies in no space that can be rotated; those of one input together."""
        reached = {held.port.op for _, space in _rotatable(model) for held in space.readers}
        by_data: dict[ir.Value, list[str]] = {}
        for site in find_sites(model):
            if site.kind not in ("matmul", "gemm") or site.node in reached:
                continue
            inside = site.node.graph is model.graph
            if inside and site.shape[1] >= SMALLEST and other_reader(site) is None:
                by_data.setdefault(site.data, []).append(site.name)
        return [Candidate(names[0], tuple(names), frozenset(names)) for names in by_data.values()]

    def passes(self, chosen: Sequence[Candidate]) -> list[Pass]:
        """What rotates them."""
        return [Rotate(spaces=(), online=tuple(sorted(_globs(chosen))))]


def _rotatable(model: ir.Model) -> list[tuple[str, Space]]:
    """Spaces that ``rotate`` would turn, by the names that it knows them by."""
    with Context() as context:
        chosen = list(Rotate().choose(model, context))
    return [(space.name, found.space) for space, found in chosen if not isinstance(found, str)]


def _candidate(name: str, space: Space) -> Candidate:
    ports = [held.port for held in (*space.writers, *space.readers)]
    sites = [site_of(port.op) for port in ports]
    touched = frozenset(site.name for site in sites if site is not None)
    return Candidate(name, (name,), touched)


def _globs(chosen: Sequence[Candidate]) -> tuple[str, ...]:
    return tuple(escape(place) for each in chosen for place in each.places)
