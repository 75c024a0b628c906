"""Try changes of coordinates on a copy, and keep those that make layers' errors smaller."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import networkx as nx
import onnx_ir as ir

from bitfold.passes.advise.layer_errors import site_errors
from bitfold.passes.analysis.sites import Site, find_sites
from bitfold.passes.core.base import Pass
from bitfold.passes.core.context import Context, Feeds
from bitfold.passes.core.report import PassEntry
from bitfold.passes.core.stage import snapshot
from bitfold.passes.core.words import counted
from bitfold.runtime.formats.scheme import QuantScheme


@dataclass(frozen=True)
class Candidate:
    """A change to places that belong together, which touches some sites.

    Attributes:
        name: what reports call it.
        places: what the pass that makes it calls them.
        sites: names of the sites whose errors it may change.
    """

    name: str
    places: tuple[str, ...]
    sites: frozenset[str]


@dataclass(frozen=True)
class Said:
    """What passes told of the places that they changed, and of those that they left alone."""

    changed: Mapping[str, str]
    left: Mapping[str, str]

    def of(self, candidate: Candidate) -> str:
        """All of it."""
        told = (self.changed.get(place) or self.left.get(place) for place in candidate.places)
        return "; ".join(filter(None, told))

    def left_all(self, candidate: Candidate) -> bool:
        """Whether nothing was changed."""
        return all(place in self.left and place not in self.changed for place in candidate.places)


@dataclass(frozen=True)
class Verdict:
    """What a candidate does to the errors of the sites that it touches, summed.

    Attributes:
        said: what the pass itself told of it.
    """

    candidate: Candidate
    before: float
    after: float
    said: str = ""

    @property
    def pays(self) -> bool:
        """Whether it is worth its trouble: a gain that is no mere noise of the rows drawn."""
        return self.after < 0.98 * self.before

    def __str__(self) -> str:
        sites = counted(len(self.candidate.sites), "site")
        figures = f"layer errors {self.before:.3g} -> {self.after:.3g}, {sites}"
        return f"{figures}; {self.said}" if self.said else figures


@dataclass
class Trials:
    """A model that changes are tried on, one kind after the other.

    Attributes:
        model: the original, or a copy with all changes that paid so far.
        plan: passes that bring the original to the same state.
    """

    model: ir.Model
    scheme_of: Callable[[Site], QuantScheme]
    samples: Sequence[Feeds]
    rows: int
    context: Context
    plan: tuple[Pass, ...] = ()
    _errors: dict[str, float] = field(default_factory=dict)

    def fork(self) -> Trials:
        """Trials that go on from here, and leave these as they are."""
        return replace(self, _errors=dict(self._errors))

    def measure(self) -> None:
        """Measure all sites now, for forks to share."""
        self._errors = self._measure(self.model, {site.name for site in find_sites(self.model)})

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
            trial, said = self._changed(change(together))
            names = frozenset().union(*(each.sites for each in together))
            self._errors |= self._measure(self.model, names - self._errors.keys())
            after = self._measure(trial, names)
            found = [_verdict(each, self._errors, after, said) for each in together]
            kept = [each.candidate for each in found if each.pays]
            if kept:
                passes = change(kept)
                self.model = trial if len(kept) == len(together) else self._changed(passes)[0]
                self.plan += tuple(passes)
                for each in kept:
                    self._errors |= {name: after[name] for name in each.sites if name in after}
            verdicts += found
        return verdicts

    def take(self, passes: Sequence[Pass]) -> Mapping[str, str]:
        """Make changes without a trial.

        Returns:
            What was done at each place.
        """
        self.model, said = self._changed(passes)
        self.plan += tuple(passes)
        self._errors = {}
        return said.changed

    def _changed(self, passes: Iterable[Pass]) -> tuple[ir.Model, Said]:
        """A copy that some passes have changed, and what they told."""
        trial = snapshot(self.model)
        entry = self.context.entry = PassEntry("trial", {}, "exact")
        for item in passes:
            item.run(trial, self.context)
        left = {note.site: f"{note.text}: {note.detail}".rstrip(": ") for note in entry.skips}
        return trial, Said({note.site: note.text for note in entry.changes}, left)

    def _measure(self, model: ir.Model, names: Collection[str]) -> dict[str, float]:
        """The errors of the named sites of a model."""
        inside = (site for site in find_sites(model) if site.node.graph is model.graph)
        sites = [site for site in inside if site.name in names]
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


def _verdict(
    candidate: Candidate, before: Mapping[str, float], after: Mapping[str, float], said: Said
) -> Verdict:
    """What the errors before and after say.

    Where the pass has left all places alone, nothing is gained: others' changes moved the errors.
    """
    first, last = (_total(errors, candidate.sites) for errors in (before, after))
    return Verdict(
        candidate, first, first if said.left_all(candidate) else last, said.of(candidate)
    )


def _total(errors: Mapping[str, float], names: Iterable[str]) -> float:
    return sum(errors.get(name, 0.0) for name in sorted(names))
