"""``advise``: of the changes of coordinates there are, apply those that pay at a scheme.

What stays as the scheme has it: zero points of weights are its own option (``symmetric``), and
inputs are rounded symmetrically in all of them.  Rotations are random: to learn them, once to judge
and once to apply, would take two thirds as long again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import onnx_ir as ir

from bitfold.passes.advise.candidates import (
    FoldedRotations,
    FreeRotations,
    Kind,
    OnlineRotations,
    Smoothings,
    Splits,
)
from bitfold.passes.advise.outcomes import Judge
from bitfold.passes.advise.search import Search, Steps
from bitfold.passes.advise.trials import Trials
from bitfold.passes.analysis.sites import Site, site_of
from bitfold.passes.core.base import Pass, Promise
from bitfold.passes.core.context import Context
from bitfold.passes.core.recipe import Recipe, format_text
from bitfold.passes.core.report import PassEntry
from bitfold.passes.fold.fold_norm_gain import FoldNormGain
from bitfold.passes.quantize.quantize import Quantize
from bitfold.passes.transform.at_scheme import AtScheme
from bitfold.passes.transform.ln_to_rms import LnToRms
from bitfold.passes.transform.rotate import Rotate
from bitfold.passes.transform.smooth import Smooth
from bitfold.passes.transform.split import Split
from bitfold.runtime.formats.scheme import QuantScheme


@dataclass(frozen=True)
class Advise(AtScheme):
    """Try changes of coordinates, and apply those that lower the quantized layers' errors.

    Each change is made on a copy; the layers that it touches are quantized there as the scheme
    says (rounded to nearest) and run on sample inputs, and the sum of their relative squared
    errors decides.  In this order:

    1. rotations that norms' gains and means must be folded for, a residual stream's;
    2. other rotations that are free, of each attention's values, say;
    3. online rotations of what no free one reaches.

    A second plan leaves the first step out and ends by smoothing.  A third rotates all that can be,
    whatever each layer by itself loses.  The whole model is quantized as it is and by each plan,
    and of the plans that lose clearly less, by more than a few samples may be wrong, the one whose
    outputs are closest to the float model's is taken.  Last, channels with outliers are split on
    top of it, within the budget, and that stays where the whole model gains more by it than by so
    many more bits for all weights.  The report has every figure, and the plan as a recipe.  Without
    sample inputs nothing is tried.

    Attributes:
        weights, group, symmetric, embeddings, embedding_group, acts, act_granularity: the scheme,
            as in ``quantize``.
        online: try online rotations, which take time as the model runs.
        smooth: try smoothing.
        budget: share of the weights that splitting may add; 0 leaves it out.
        untie: elements; a weight with two readers is copied up to this size to fold a gain.
        rows: rows of each activation to measure errors on.
    """

    name: ClassVar[str] = "advise"
    promise: ClassVar[Promise] = Promise.EXACT

    embeddings: str = ""
    embedding_group: int | None = None
    online: bool = True
    smooth: bool = True
    budget: float = 0.02
    untie: int = 4096
    rows: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        self.quantizer()

    def run(self, model: ir.Model, context: Context) -> bool:
        samples = context.statistics()
        if not samples:
            context.entry.note("no sample inputs: nothing is tried")
            return False
        plans = self._plans()
        steps = Steps(context.progress, sum(len(kinds) + 1 for kinds in plans.values()) + 5)
        with Context(calibration=samples, seed=context.seed, progress=steps) as scratch:
            start = Trials(model, self._scheme_of, samples, self.rows, scratch)
            judge = Judge(model, self.quantizer(), samples, scratch)
            steps.begin("the whole model, as it is")
            original = judge.outcome("as it is", start)
            steps.begin("its layers")
            start.measure()
            search = Search(judge, steps, [original])
            for title, kinds in plans.items():
                search.go_on(original, title, kinds)
            search.take(original, "with all rotated", self._rotations())
            if self.budget:
                split = Split(**self._at_scheme(), budget=self.budget)
                best = search.best
                search.go_on(best, f"{best.title}, then split", [Splits(split)])
        _tell(search, context)
        return self._apply(search.best.trials.plan, model, context)

    def _plans(self) -> dict[str, list[Kind]]:
        """Kinds of change in the order that they are tried in, by what the report calls them.

        Folding a norm's gain into weights lays bare the outliers that it held down: a stream that
        is rotated for free and inputs that are rotated online exclude each other.
        """
        folded, free = FoldedRotations(self.untie), FreeRotations()
        last: list[Kind] = [OnlineRotations()] if self.online else []
        smoothed: list[Kind] = [Smoothings(Smooth(**self._at_scheme()))] if self.smooth else []
        return {
            "with free rotations first": [folded, free, *last],
            "with gains kept": [free, *last, *smoothed],
        }

    def _rotations(self) -> list[Pass]:
        """What rotates all that can be."""
        return [FoldNormGain(self.untie), LnToRms(), Rotate(online=("*",) if self.online else ())]

    def _apply(self, plan: Sequence[Pass], model: ir.Model, context: Context) -> bool:
        if not plan:
            return False
        context.entry.note(f"by hand: {format_text(Recipe(tuple(plan)))}")
        entry = context.entry
        context.entry = PassEntry(entry.name, {}, entry.promise)  # its changes are told before
        for item in plan:
            item.run(model, context)
        entry.notes += context.entry.notes
        context.entry = entry
        return True

    def _scheme_of(self, site: Site) -> QuantScheme:
        readers = [site_of(user) for user, _ in site.source.uses()]
        return self.quantizer().scheme_of([site, *(each for each in readers if each is not None)])

    def _at_scheme(self) -> dict[str, Any]:
        """The options that tell a pass the scheme."""
        return {field.name: getattr(self, field.name) for field in fields(AtScheme)}

    def quantizer(self) -> Quantize:
        """The pass that quantizes as the scheme says."""
        return Quantize(
            **self._at_scheme(),
            embeddings=self.embeddings,
            embedding_group=self.embedding_group,
        )


def _tell(search: Search, context: Context) -> None:
    """Put every trial into the report: of changes that were tried twice, the best plan's."""
    context.entry.note(f"the whole model: {', '.join(map(str, search.outcomes))}")
    best = search.best
    told = set()
    for each in (*best.told, *search.told):
        if each.what in told:
            continue
        told.add(each.what)
        if each.pays and each in best.told:
            context.entry.changed(each.name, f"{each.title}: {each.text}")
        elif each.pays:
            reason = f"would gain by being {each.title}, but the whole model loses least"
            context.entry.skipped(each.name, f"{reason} {best.title}", each.text)
        else:
            context.entry.skipped(each.name, f"would not gain by being {each.title}", each.text)
