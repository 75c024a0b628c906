"""``allocate``: give each weight the format that serves the outputs best, within a budget."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from bitfold.passes.allocate.budget import Budget, Option, numbers_in
from bitfold.passes.allocate.known import Known
from bitfold.passes.allocate.offers import OFFERS, Offer, stored_nbytes
from bitfold.passes.allocate.probes import moved_alone, moved_by
from bitfold.passes.allocate.together import best_together
from bitfold.passes.analysis.sites import Site
from bitfold.passes.core.base import Pass, Promise
from bitfold.passes.core.context import Context, Feeds
from bitfold.passes.core.recipe import as_options
from bitfold.passes.core.report import PassEntry
from bitfold.passes.core.targets import Target
from bitfold.passes.quantize.conv_scheme import conv_rows
from bitfold.passes.quantize.jobs import Job, find_jobs
from bitfold.passes.quantize.plan import forget, plan
from bitfold.passes.quantize.quantize import Quantize
from bitfold.passes.quantize.rounding import round_to_nearest
from bitfold.passes.transform.layer_error import some
from bitfold.runtime.errors import CalibrationError, RecipeError
from bitfold.runtime.formats.scale_types import ScaleType
from bitfold.runtime.formats.scheme import Acts, WeightScheme

PROBE = "int3"
"""What a weight is rounded to, to see what that does: few bits stand out from all other noise."""


@dataclass(frozen=True)
class Allocate(Pass):
    """Note on each weight the format that ``quantize`` is to give it.

    1. Each weight is rounded alone, to nearest in 3 bits, and sample inputs tell how far that
       moves the model's outputs (KL of logits, else cosine).
    2. The squared error of each format and group, relative to that one's, is measured on some rows
       of the weight; the outputs' distance is taken to go with it.
    3. Groups are those of the rounded inputs, too: all inputs are rounded in groups of each size,
       and each weight gets its share of what that does.
    4. An integer program chooses what moves the outputs least in sum, within the budget.
    5. Where that takes formats of very few bits, all weights are rounded at once to see whether the
       outputs move less without these, and then without the next.

    Attributes:
        bits: budget: mean bits a weight, scales included.
        size: budget instead: megabytes (1e6 bytes) of the written model; 0 for as ``bits`` says.
        formats: number formats to choose from; none for those that suit the target.
        groups: sizes of groups to choose from.
        scales: type of the scales; ``auto`` for the one that suits the target.
        acts: as in ``quantize``, which refuses formats that do not suit the inputs.
        samples: sample inputs to run for each weight.
        target: what the model must run on.
        exclude: globs of sites or weights that ``quantize`` leaves in float.
    """

    name: ClassVar[str] = "allocate"
    promise: ClassVar[Promise] = Promise.EXACT

    bits: float = 4.0
    size: float = 0.0
    formats: tuple[str, ...] = ()
    groups: tuple[int, ...] = (32, 64, 128)
    scales: ScaleType | Literal["auto"] = "auto"
    acts: Acts = "int8"
    samples: int = 1
    target: Target = "native"
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.groups or self.samples < 1:
            raise RecipeError(
                "allocate: expected groups and samples to choose by, found "
                f"{len(self.groups)} groups and {self.samples} samples"
            )
        for name, group in product(self._offer.formats, self.groups):
            self._quantizer(name, group)

    @property
    def _offer(self) -> Offer:
        """What weights may get."""
        suited = OFFERS[self.target]
        return Offer(
            self.formats or suited.formats,
            suited.scales if self.scales == "auto" else self.scales,
            suited.zero_points,
        )

    def run(self, model: ir.Model, context: Context) -> bool:
        jobs = self._jobs(model, context)
        samples = context.statistics()[: self.samples]
        if not samples:
            raise CalibrationError(
                "allocate needs inputs to see what each weight does to the outputs, and there "
                "are none",
                "give some with --calibration, or --samples",
            )
        if not jobs:
            return False
        for job in jobs:
            forget(job.source)
        known = Known(context, model, samples)
        inputs = self._inputs_alone(model, samples, len(jobs), known)
        options = []
        for done, loss in enumerate(self._alone(model, jobs, samples, known)):
            context.progress(f"probing {jobs[done].sites[0].name}", done / len(jobs))
            options.append(list(self._options(jobs[done].sites, loss, inputs)))
        budget = Budget(self.bits, self.size, self.target)
        item = replace(self._quantizer("int8", self.groups[0]), lossless="off")
        chosen = best_together(model, jobs, options, budget, item, context)
        for job, option in zip(jobs, chosen, strict=True):
            plan(job.source, option.scheme)
            text = f"{option.scheme}: alone it moves the outputs by about {option.loss:.2g}"
            context.entry.changed(job.sites[0].name, text)
        _tell(options, chosen, numbers_in(jobs), context)
        return False  # notes change no computation

    def _jobs(self, model: ir.Model, context: Context) -> list[Job]:
        """The weights that there is a choice for; why the others have none is ``quantize``'s."""
        entry, context.entry = context.entry, PassEntry("(jobs)", {}, "exact")
        scheme_of = self._quantizer("int8", self.groups[0]).scheme_of
        jobs = list(find_jobs(model, context, self.exclude, scheme_of))
        context.entry = entry
        known = model.graph.initializers.values()
        return [job for job in jobs if any(job.source is value for value in known)]

    def _quantizer(self, name: str, group: int, symmetric: bool = True) -> Quantize:
        return Quantize(
            weights=name,
            group=group,
            symmetric=symmetric,
            scales=self._offer.scales,
            acts=self.acts,
            target=self.target,
            exclude=self.exclude,
        )

    def _alone(
        self, model: ir.Model, jobs: Sequence[Job], samples: Sequence[Feeds], known: Known
    ) -> Iterator[float]:
        """How far ``PROBE`` in each weight alone moves the outputs."""
        keys = [f"{job.sites[0].name} {self._probe_scheme(job.sites[0])!r}" for job in jobs]
        found = [known.get(key) for key in keys]
        new = [job for job, loss in zip(jobs, found, strict=True) if loss is None]
        rounded = [(job.source, lambda site=job.sites[0]: self._probe(site)) for job in new]
        measured = moved_alone(model, rounded, samples) if new else iter(())
        for key, loss in zip(keys, found, strict=True):
            yield known.put(key, next(measured)) if loss is None else loss

    def _inputs_alone(
        self, model: ir.Model, samples: Sequence[Feeds], count: int, known: Known
    ) -> dict[int, float]:
        """By group, how far rounding the inputs of one of ``count`` weights moves the outputs.

        All are rounded at once, beside weights of 8 bits, which lose next to nothing.
        """
        if self.acts == "none":
            return dict.fromkeys(self.groups, 0.0)
        at_8_bits = {group: self._quantizer("int8", group) for group in self.groups}
        passes = {group: replace(item, lossless="off") for group, item in at_8_bits.items()}
        moved = {}
        for group, item in passes.items():
            key = str(as_options(item))
            found = known.get(key)
            if found is None:
                found = known.put(key, moved_by(item, model, samples))
            moved[group] = found / count
        return moved

    def _options(
        self, sites: Sequence[Site], moved: float, inputs: Mapping[int, float]
    ) -> Iterator[Option]:
        """What a weight may get, and what that costs.

        Args:
            moved: how far ``PROBE`` moves the outputs.
            inputs: how far rounded inputs do, by their group.
        """
        site = sites[0]
        rows = some(site.weight())[::2]
        unit = _squared_error(rows, site, self._probe_scheme(site))
        seen = set()
        offer = self._offer
        symmetries = (True, False) if offer.zero_points else (True,)
        for name, group, symmetric in product(offer.formats, self.groups, symmetries):
            scheme = self._quantizer(name, group, symmetric).scheme_of(sites).weight
            if scheme in seen:
                continue
            seen.add(scheme)
            share = _squared_error(rows, site, scheme) / unit if unit else 0.0
            nbytes = stored_nbytes(sites, scheme, self.target)
            yield Option(scheme, moved * share + inputs[group], nbytes)

    def _probe_scheme(self, site: Site) -> WeightScheme:
        return self._quantizer(PROBE, self.groups[0]).scheme_of([site]).weight

    def _probe(self, site: Site) -> np.ndarray:
        """The weight rounded, in the order in which it is stored."""
        weight = site.weight()
        rows = weight if site.conv is None else conv_rows(weight, site.conv)
        quantized = round_to_nearest(rows, self._probe_scheme(site), "minmax")
        rounded = quantized.dequantize().reshape(weight.shape)
        if site.conv is not None:
            return site.conv.kernels(rounded)
        return np.ascontiguousarray(rounded if site.out_first else rounded.T)


def _squared_error(rows: np.ndarray, site: Site, scheme: WeightScheme) -> float:
    """What some ``rows`` of a site's weight lose, rounded to nearest."""
    conv = site.conv
    grouped = rows if conv is None or conv.depthwise else rows.reshape(-1, conv.cg)
    ranges = "minmax" if scheme.number.bits == 8 else "mse"
    lost = round_to_nearest(grouped, scheme, ranges).dequantize() - grouped
    return float(np.square(lost, dtype=np.float64).sum())


def _tell(
    options: Sequence[Sequence[Option]],
    chosen: Sequence[Option],
    numbers: int,
    context: Context,
) -> None:
    nbytes = sum(each.nbytes for each in chosen)
    loss = sum(each.loss for each in chosen)
    size = f"{8 * nbytes / numbers:.2f} bits a weight, {nbytes / 1e6:.1f} MB"
    context.entry.note(f"{size}; distances of the outputs add up to about {loss:.2g}")
    by_scheme = [{each.scheme: each for each in offered} for offered in options]
    everywhere = set(by_scheme[0]).intersection(*by_scheme[1:])
    fitting = []
    for scheme in everywhere:
        same = [each[scheme] for each in by_scheme]
        if sum(each.nbytes for each in same) <= nbytes:
            fitting.append((sum(each.loss for each in same), str(scheme)))
    if fitting:
        least, name = min(fitting)
        context.entry.note(f"the best of one scheme for all, {name}: {least:.2g}")
