"""``advise``: of the changes of coordinates there are, apply those that pay at a scheme."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import onnx_ir as ir

from bitfold.passes.advise.candidates import (
    FoldedRotations,
    FreeRotations,
    Kind,
    OnlineRotations,
    Smoothings,
)
from bitfold.passes.advise.trials import Trials, Verdict
from bitfold.passes.analysis.sites import Site, site_of
from bitfold.passes.core.base import Pass, Promise
from bitfold.passes.core.compare import compare_outputs
from bitfold.passes.core.context import Context
from bitfold.passes.core.recipe import Recipe, format_text
from bitfold.passes.core.report import Divergence, PassEntry
from bitfold.passes.core.stage import Stage, snapshot
from bitfold.passes.core.words import counted
from bitfold.passes.quantize.quantize import Quantize
from bitfold.passes.transform.smooth import Smooth
from bitfold.runtime.formats.scheme import Acts, QuantScheme


@dataclass(frozen=True)
class Outcome:
    """What a plan makes of the whole model.

    Attributes:
        title: what the plan is.
        divergence: of the quantized model's outputs from the float one's.
        told: every trial, with what it was of.
        plan: the passes that did it.
    """

    title: str
    divergence: Divergence
    told: tuple[tuple[str, Verdict], ...]
    plan: tuple[Pass, ...]

    @property
    def distance(self) -> float:
        """What is to be small."""
        kl = self.divergence.kl
        return 1 - self.divergence.cosine if kl is None else kl

    def __str__(self) -> str:
        kl = self.divergence.kl
        figure = f"cosine {self.divergence.cosine:.5f}" if kl is None else f"KL {kl:.3g}"
        return f"{self.title} {figure}"


@dataclass(frozen=True)
class Advise(Pass):
    """Try changes of coordinates, and apply those that lower the quantized layers' errors.

    Each change is made on a copy; the layers that it touches are quantized there as the scheme
    says (rounded to nearest) and run on sample inputs, and the sum of their relative squared
    errors decides.  In this order:

    1. rotations that norms' gains and means must be folded for, a residual stream's;
    2. other rotations that are free, of each attention's values, say;
    3. online rotations of what no free one reaches.

    A second plan leaves the first step out and ends by smoothing.  Last, the whole model is
    quantized as it is and by each plan, and the one whose outputs are closest to the float model's
    is taken.  The report has every figure, and the plan as a recipe.  Without sample inputs
    nothing is tried.

    Attributes:
        weights, group, symmetric, embeddings, acts, act_granularity: the scheme, as in
            ``quantize``.
        online: try online rotations, which take time as the model runs.
        untie: elements; a weight with two readers is copied up to this size to fold a gain.
        rows: rows of each activation to measure errors on.
    """

    name: ClassVar[str] = "advise"
    promise: ClassVar[Promise] = Promise.EXACT

    weights: str = "int4"
    group: int = 32
    symmetric: bool = False
    embeddings: str = ""
    acts: Acts = "int8"
    act_granularity: Literal["group", "token"] = "group"
    online: bool = True
    untie: int = 4096
    rows: int = 256

    def __post_init__(self) -> None:
        self.quantizer()

    def run(self, model: ir.Model, context: Context) -> bool:
        samples = context.statistics()
        if not samples:
            context.entry.note("no sample inputs: nothing is tried")
            return False
        with Context(calibration=samples, seed=context.seed) as scratch:
            reference = Stage(model, samples)
            best = Outcome("as it is", self._divergence(reference, model, scratch), (), ())
            lines = [str(best)]
            for title, kinds in self._plans().items():
                trials = Trials(snapshot(model), self._scheme_of, samples, self.rows, scratch)
                told = self._tried(trials, kinds, context)
                if trials.plan:
                    divergence = self._divergence(reference, trials.model, scratch)
                    outcome = Outcome(title, divergence, tuple(told), tuple(trials.plan))
                    lines.append(str(outcome))
                    best = min(best, outcome, key=lambda each: each.distance)
                elif not best.plan:
                    best = replace(best, told=tuple(told))
        context.entry.note(f"the whole model: {', '.join(lines)}")
        for each in best.told:
            _tell(*each, bool(best.plan), context)
        return self._apply(best.plan, model, context)

    def _plans(self) -> dict[str, list[Kind]]:
        """Kinds of change in the order that they are tried in, by what the report calls them.

        Folding a norm's gain into weights lays bare the outliers that it held down: a stream that
        is rotated for free and inputs that are rotated online exclude each other.
        """
        folded, free = FoldedRotations(self.untie), FreeRotations()
        last: list[Kind] = [OnlineRotations()] if self.online else []
        smooth = Smooth(
            weights=self.weights,
            group=self.group,
            symmetric=self.symmetric,
            acts=self.acts,
            act_granularity=self.act_granularity,
        )
        return {
            "free rotations first": [folded, free, *last],
            "gains kept": [free, *last, Smoothings(smooth)],
        }

    def _tried(
        self, trials: Trials, kinds: Sequence[Kind], context: Context
    ) -> list[tuple[str, Verdict]]:
        told: list[tuple[str, Verdict]] = []
        for kind in kinds:
            context.progress(f"trying what can be {kind.title}", 0.5)
            done = {verdict.candidate.name for _, verdict in told if verdict.pays}
            left = [each for each in kind.candidates(trials.model) if each.name not in done]
            verdicts = trials.attempt(left, kind.passes)
            told += [(kind.title, verdict) for verdict in verdicts]
        return told

    def _apply(self, plan: Sequence[Pass], model: ir.Model, context: Context) -> bool:
        if not plan:
            return False
        context.entry.note(f"by hand: {format_text(Recipe(tuple(plan)))}")
        entry = context.entry
        context.entry = PassEntry(entry.name, {}, entry.promise)  # what they did is told before
        for item in plan:
            item.run(model, context)
        entry.notes += context.entry.notes
        context.entry = entry
        return True

    def _divergence(self, reference: Stage, model: ir.Model, context: Context) -> Divergence:
        """Of the whole model, quantized."""
        context.progress("quantizing the whole model", 0.9)
        quantized = snapshot(model)
        self.quantizer().run(quantized, context)
        stage = Stage(quantized, reference.samples)
        count = range(len(reference.samples))
        return compare_outputs((reference.outputs(i), stage.outputs(i)) for i in count)

    def _scheme_of(self, site: Site) -> QuantScheme:
        readers = [site_of(user) for user, _ in site.source.uses()]
        return self.quantizer().scheme_of([site, *(each for each in readers if each is not None)])

    def quantizer(self) -> Quantize:
        """The pass that quantizes as the scheme says."""
        return Quantize(
            weights=self.weights,
            group=self.group,
            symmetric=self.symmetric,
            embeddings=self.embeddings,
            acts=self.acts,
            act_granularity=self.act_granularity,
        )


def _tell(title: str, verdict: Verdict, kept: bool, context: Context) -> None:
    name, sites = verdict.candidate.name, len(verdict.candidate.sites)
    errors = f"layer errors {verdict.before:.3g} -> {verdict.after:.3g}, {counted(sites, 'site')}"
    if verdict.pays and kept:
        context.entry.changed(name, f"{title}: {errors}")
    else:
        context.entry.skipped(name, f"would not gain by being {title}", errors)
