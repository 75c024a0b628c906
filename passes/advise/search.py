"""The search for a plan: kinds of change are tried in turn, and whole plans against each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bitfold.passes.advise.candidates import Kind
from bitfold.passes.advise.outcomes import Judge, Outcome, Told
from bitfold.passes.advise.trials import Trials
from bitfold.passes.core.base import Pass


@dataclass
class Steps:
    """Progress of work in steps, each of which tells of its own.

    Attributes:
        tell: called with a line of text and a fraction of the whole.
        count: how many steps there are.
    """

    tell: Callable[[str, float], None]
    count: int
    title: str = ""
    begun: int = 0

    def begin(self, title: str) -> None:
        """The next step."""
        self.title, self.begun = title, self.begun + 1
        self.tell(title, (self.begun - 1) / self.count)

    def __call__(self, text: str, fraction: float) -> None:
        """How far the present step is."""
        self.tell(f"{self.title}: {text}", (self.begun - 1 + fraction) / self.count)


@dataclass
class Search:
    """Plans that were tried so far.

    Attributes:
        outcomes: of plans that change something; first of all, of the model as it is.
        told: every trial of a change.
    """

    judge: Judge
    steps: Steps
    outcomes: list[Outcome]
    told: list[Told] = field(default_factory=list)
    _done: dict[tuple[int, Kind, frozenset[str]], tuple[Trials, list[Told]]] = field(
        default_factory=dict
    )

    @property
    def best(self) -> Outcome:
        """The one that loses least of those clearly better than the model as it is; or that."""
        first, *others = self.outcomes
        better = [each for each in others if each.clearly_better(first)]
        return min(better, key=lambda each: each.loss, default=first)

    def go_on(self, before: Outcome, title: str, kinds: Sequence[Kind]) -> None:
        """Try some kinds of change in turn, on top of a plan; judge it where any of them pays."""
        trials, told = before.trials, list[Told]()
        for kind in kinds:
            self.steps.begin(f"trying what can be {kind.title}")
            paid = frozenset(each.name for each in told if each.pays)
            trials, more = self._tried(trials, kind, paid)
            told += more
        self.told += told
        self.steps.begin(f"the whole model, {title}")
        if all(each.trials.model is not trials.model for each in self.outcomes):
            self.outcomes.append(self.judge.outcome(title, trials, (*before.told, *told)))

    def take(self, before: Outcome, title: str, passes: Sequence[Pass]) -> None:
        """Judge some passes on top of a plan, whatever layers would say of them."""
        self.steps.begin(f"the whole model, {title}")
        trials = before.trials.fork()
        changed = trials.take(passes)
        if changed:
            told = [Told(title, place, True, text) for place, text in changed.items()]
            self.outcomes.append(self.judge.outcome(title, trials, (*before.told, *told)))

    def _tried(self, before: Trials, kind: Kind, paid: frozenset[str]) -> tuple[Trials, list[Told]]:
        """What comes of trying a kind where nothing that is named in ``paid`` was changed yet.

        Plans begin alike where what tells them apart does not pay: that is tried once.
        """
        key = id(before.model), kind, paid  # all models live as long as the search
        if key not in self._done:
            trials = before.fork()
            left = [each for each in kind.candidates(trials.model) if each.name not in paid]
            verdicts = trials.attempt(left, kind.passes)
            self._done[key] = trials, [Told.of(kind.title, verdict) for verdict in verdicts]
        return self._done[key]
