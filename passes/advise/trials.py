"""Try changes of coordinates on a copy, and keep those that make layers' errors smaller."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field

import networkx as nx
import onnx_ir as ir

from bitfold.passes.advise.layer_errors import site_errors
from bitfold.passes.analysis.sites import Site, find_sites
from bitfold.passes.core.base import Pass
from bitfold.passes.core.context import Context, Feeds
from bitfold.passes.core.stage import snapshot
from bitfold.runtime.formats.scheme import QuantScheme


@dataclass(frozen=True)
class Candidate:
    """A change to one place, which touches some sites.

    Attributes:
        name: what the pass that makes it calls the place.
        sites: names of the sites whose weights or inputs it changes.
    """

    name: str
    sites: frozenset[str]


@dataclass(frozen=True)
class Verdict:
    """What a candidate does to the errors of the sites that it touches, summed."""

    candidate: Candidate
    before: float
    after: float

    @property
    def pays(self) -> bool:
        """Whether it is worth its trouble: a gain that is no mere noise of the rows drawn."""
        return self.after < 0.98 * self.before


@dataclass
class Trials:
    """A copy of a model that changes are tried on, one kind after the other.

    Attributes:
        model: the copy, with all changes that paid so far.
        plan: passes that bring the original to the same state.
    """

    model: ir.Model
    scheme_of: Callable[[Site], QuantScheme]
    samples: Sequence[Feeds]
    rows: int
    context: Context
    plan: list[Pass] = field(default_factory=list)
    _errors: dict[str, float] = field(default_factory=dict)

    def attempt(
        self,
        candidates: Sequence[Candidate],
        change: Callable[[Sequence[Candidate]], list[Pass]],
    ) -> list[Verdict]:
        """Try candidates, those that share no site at once, and keep the ones that pay.

        Args:
            change: the passes that make some candidates' changes, and no others.
        """
        verdicts: list[Verdict] = []
        for together in disjoint(candidates):
            trial = snapshot(self.model)
            for item in change(together):
                item.run(trial, self.context)
            names = frozenset().union(*(each.sites for each in together))
            self._errors |= self._measure(self.model, names - self._errors.keys())
            after = self._measure(trial, names)
            found = [
                Verdict(each, _total(self._errors, each.sites), _total(after, each.sites))
                for each in together
            ]
            kept = [each.candidate for each in found if each.pays]
            if kept:
                passes = change(kept)
                for item in passes:
                    item.run(self.model, self.context)
                self.plan += passes
                for each in kept:
                    self._errors |= {name: after[name] for name in each.sites if name in after}
            verdicts += found
        return verdicts

    def _measure(self, model: ir.Model, names: Collection[str]) -> dict[str, float]:
        """The errors of the named sites of a model."""
        sites = [site for site in find_sites(model) if site.name in names]
        return site_errors(model, sites, self.scheme_of, self.samples, self.rows)


def disjoint(candidates: Sequence[Candidate]) -> list[list[Candidate]]:
    """Candidates in few groups; no two of a group touch one site."""
    graph = nx.Graph()
    graph.add_nodes_from(range(len(candidates)))
    by_site: dict[str, list[int]] = {}
    for number, each in enumerate(candidates):
        for site in sorted(each.sites):
            for other in by_site.setdefault(site, []):
                graph.add_edge(number, other)
            by_site[site].append(number)
    colors = nx.greedy_color(graph, strategy="largest_first")
    groups: dict[int, list[Candidate]] = {}
    for number, each in enumerate(candidates):
        groups.setdefault(colors[number], []).append(each)
    return [groups[color] for color in sorted(groups)]


def _total(errors: dict[str, float], names: Iterable[str]) -> float:
    return sum(errors.get(name, 0.0) for name in sorted(names))
