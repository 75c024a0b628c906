"""``advise``: of the changes of coordinates there are, apply those that pay at a scheme."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import onnx_ir as ir

from bitfold.passes.advise.candidates import FoldedRotations, FreeRotations, Kind, OnlineRotations
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
from bitfold.runtime.formats.scheme import Acts, QuantScheme


@dataclass(frozen=True)
class Advise(Pass):
    """Try rotations where they may help, and apply those that lower the quantized layers' errors.

    Each change is made on a copy; the layers that it touches are quantized there as the scheme
    says (rounded to nearest) and run on sample inputs, and the sum of their relative squared
    errors decides.  In this order:

    1. rotations that norm gains must be folded for, the residual stream's;
    2. other rotations that are free, of each attention's values, say;
    3. online rotations of what no free one reaches.

    Last, the whole model is quantized with and without all that paid: where its outputs are not
    closer to the float model's, nothing is changed.  The report has every figure, and the plan as
    a recipe.  Without sample inputs nothing is tried.

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
        kinds: list[Kind] = [FoldedRotations(self.untie), FreeRotations()]
        if self.online:
            kinds.append(OnlineRotations())
        told: list[tuple[str, Verdict]] = []
        with Context(seed=context.seed) as scratch:
            trials = Trials(snapshot(model), self._scheme_of, samples, self.rows, scratch)
            for kind in kinds:
                context.progress(f"trying what can be {kind.title}", 0.5)
                done = {verdict.candidate.name for _, verdict in told if verdict.pays}
                open_ = [each for each in kind.candidates(trials.model) if each.name not in done]
                verdicts = trials.attempt(open_, kind.passes)
                told += [(kind.title, verdict) for verdict in verdicts]
            kept = bool(trials.plan) and self._better(model, trials, context)
        for title, verdict in told:
            _tell(title, verdict, kept, context)
        if not kept:
            return False
        context.entry.note(f"by hand: {format_text(Recipe(tuple(trials.plan)))}")
        entry = context.entry
        context.entry = PassEntry(entry.name, {}, entry.promise)  # what they did is told above
        for item in trials.plan:
            item.run(model, context)
        context.entry = entry
        return True

    def _better(self, model: ir.Model, trials: Trials, context: Context) -> bool:
        """Whether the whole model, quantized, is closer to the float one by the plan."""
        context.progress("quantizing with and without", 0.9)
        float_stage = Stage(model, trials.samples)
        plain, planned = (
            self._divergence(float_stage, each, trials) for each in (model, trials.model)
        )
        words = f"the whole model: {_words(plain)}, with what pays {_words(planned)}"
        better = _distance(planned) < _distance(plain)
        context.entry.note(words if better else f"{words}: nothing is changed")
        return better

    def _divergence(self, reference: Stage, model: ir.Model, trials: Trials) -> Divergence:
        quantized = snapshot(model)
        self.quantizer().run(quantized, trials.context)
        stage = Stage(quantized, trials.samples)
        pairs = ((reference.run(feeds), stage.run(feeds)) for feeds in trials.samples)
        return compare_outputs(pairs)

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


def _distance(divergence: Divergence) -> float:
    return 1 - divergence.cosine if divergence.kl is None else divergence.kl


def _words(divergence: Divergence) -> str:
    if divergence.kl is None:
        return f"cosine {divergence.cosine:.5f}"
    return f"KL {divergence.kl:.3g}"


def _tell(title: str, verdict: Verdict, kept: bool, context: Context) -> None:
    name, sites = verdict.candidate.name, len(verdict.candidate.sites)
    errors = f"layer errors {verdict.before:.3g} -> {verdict.after:.3g}, {counted(sites, 'site')}"
    if verdict.pays and kept:
        context.entry.changed(name, f"{title}: {errors}")
    else:
        context.entry.skipped(name, f"would not gain by being {title}", errors)
