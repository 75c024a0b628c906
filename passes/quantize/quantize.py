"""``quantize``: give every site low-bit codes and scales, and its input low-bit levels."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis.sites import Site
from bitfold.passes.calibrate.token_weights import Tokens
from bitfold.passes.core.base import Pass, Promise
from bitfold.passes.core.context import Context, digest_of
from bitfold.passes.core.fingerprint import model_digest, software_digest
from bitfold.passes.core.parallel import ONE_AT_A_TIME
from bitfold.passes.core.recipe import as_options
from bitfold.passes.core.report import SiteRecord
from bitfold.passes.core.spool import let_go
from bitfold.passes.core.targets import Target
from bitfold.passes.core.words import counted
from bitfold.passes.quantize.conv_scheme import (
    ConvActs,
    conv_scheme,
    has_one_pixel,
)
from bitfold.passes.quantize.corrections import Corrections
from bitfold.passes.quantize.finders import RangeName
from bitfold.passes.quantize.in_order import InOrder, is_told
from bitfold.passes.quantize.insert import SiteInserter
from bitfold.passes.quantize.jobs import Job, find_jobs, shape_of
from bitfold.passes.quantize.journal import Journal
from bitfold.passes.quantize.keep_grid import NO_GRID, Lossless
from bitfold.passes.quantize.low_rank import LowRankStart
from bitfold.passes.quantize.mean_inputs import mean_inputs
from bitfold.passes.quantize.methods import METHODS, MethodName
from bitfold.passes.quantize.packed_size import packed_nbytes
from bitfold.passes.quantize.piece import Outcome, Piece, piece_of
from bitfold.passes.quantize.plan import planned
from bitfold.passes.quantize.rounder import Rounder
from bitfold.runtime.errors import CalibrationError, RecipeError
from bitfold.runtime.formats import format_named
from bitfold.runtime.formats.scale_types import ScaleType
from bitfold.runtime.formats.scheme import Acts, QuantScheme, WeightScheme, takes_zero_points
from bitfold.runtime.ops.lowbit_matmul import MOST_RANK


@dataclass(frozen=True)
class Quantize(Pass):
    """Quantize weights, and inputs on the fly.

    Each site's weight becomes codes, scales and perhaps zero points behind a
    ``bitfold.DequantizeWeight``; its input passes a ``bitfold.QuantizeActivation``.  The graph
    stays runnable everywhere; ``lower`` turns it into a target's operators.

    1. A weight that several sites share (a tied embedding and head) is quantized once.
    2. Embedding tables, and heads tied to one, take the ``embeddings`` format.
    3. A convolution's groups are runs of channels within a tap, and its input gets a scale per
       pixel and group; a depthwise one keeps 8 bits, float inputs and the sums of its taps.  Its
       bias takes up the mean error of its weight, where there are inputs to run.
    4. A weight that already lies on a grid, as training with quantization leaves it, is stored
       with no error.
    5. Skipped, with the reason: excluded sites, weights that are not float32, tiny weights, those
       that padding would make no smaller, tables of short rows, and tables of rotary angles.

    Attributes:
        weights: number format of the weights: int2 to int8, binary, ternary, nf4, fp4, fp6_e2m3,
            pot3, pot4, apot5, gauss2 to gauss5, odd2 to odd4 or quinary; power2 to power5, whose
            exponent is searched for each weight; learned2 to learned4, with levels of its own for
            each weight; with float inputs also fp6_e3m2, fp8_e4m3, fp8_e5m2 and pot5.
        group: input channels that share a scale; 0 for one scale per output channel.
        symmetric: leave out zero points.
        lossless: ``auto`` to store weights exactly that lie on a grid which takes no more bits than
            the scheme; ``always`` where it takes more, too; ``only`` to do so, and leave all
            others in float; ``off`` to round them as any others.
        rank: channels of a low-rank branch beside each matmul's codes, two thin float16 factors
            that read its inputs before these are rounded; 0 for none.
        low_rank: what the branch takes first: the ``error`` of rounding (LoRC), or the largest
            part of the ``weight`` itself, of which the rest is rounded (SVDQuant).  Where there are
            inputs to run, it is fitted to the outputs that these give.
        method: how weights become codes: ``rtn``, each value to the nearest code; ``gptq``, so that
            outputs on the calibration inputs change least (convolutions with groups and embedding
            tables are rounded to nearest all the same); ``adaround`` and ``adaquant``, the same by
            gradient descent, which is slower and leaves more error; ``pvq``, integers of the same
            sum of magnitudes in every group; ``ada-dim``, as ``gptq``, and matmuls that lose less
            with a scale for each input, too, get one (AdaDim).  With ``weights=binary``, matmuls
            take sums of two weights: ``pb`` adds 8 bits to the values that matter most (PB-LLM),
            ``dual-binary`` a second plane of signs with its own scales (DB-LLM).
        salient: with ``pb``, the share of values that get 8 bits.
        sequential: with methods but ``rtn``, each weight meets what the quantized part before it
            gives, not what the float model gave.
        tokens: how much each token of the inputs counts there: ``even`` for alike; ``uses`` for
            also by the tokens that look at it, where attention has sinks; ``attention`` for by how
            much attention it gets (RSQ), or ``first`` for the first half of a text alone;
            ``inverse-norm``, for weights that add to a residual stream, by what the norm behind
            them divides by.  Others, and convolutions, count them alike.
        ranges: ``mse`` for the least squared error, ``minmax`` to cover every value, ``percentile``
            to cover all but a thousandth at each end, ``entropy`` to keep their distribution (both
            for group=0), ``gauss`` for what normally distributed values want.
        scales: type that scales are stored in: f16, f32, bf16, e8m0 (powers of two: MX formats,
            with group=32) or e4m3 (with a factor for each weight: NVFP4, with group=16).
        acts: ``int8`` to quantize inputs on the fly, ``none`` to keep them float; ``int4``,
            ``int3`` or ``int2`` for fewer levels, ``int1`` for signs and mean magnitudes.
        act_granularity: an activation scale per row and weight group, or per row (token).
        embeddings: number format of embedding tables; empty for the weights' format.
        embedding_group: group size of embedding tables; ``none`` for the weights' own.
        conv_acts: ``pixel`` to quantize the inputs of convolutions as ``acts`` says, ``none`` to
            keep them float; ``auto`` for what the target runs well.
        conv_group: most channels that share a scale in a convolution, whose few pixels and long
            chains make it more sensitive than a matmul; 0 for as many as elsewhere.
        target: what the model must run on.
        correct_variance: where there are inputs to run, scale each output of a rounded weight so
            that it varies as the float one's does, which the norms of training would see to
            (AdaQuant's correction of norm statistics).  It needs scales of type f16 or f32, and
            corrects all biases.
        biases: whose biases ``correct_bias`` changes: those of ``convolutions``, or ``all``, where
            matmuls have any.
        correct_bias: take the mean error that rounding a convolution's weight makes on the
            calibration inputs, or else the sample inputs, from its bias (at 8 bits only where
            these are real ones, not made up).
        exclude: globs of site or weight names to leave in float.
    """

    name: ClassVar[str] = "quantize"
    promise: ClassVar[Promise] = Promise.LOSSY

    target: Target = "native"
    weights: str = "int4"
    group: int = 32
    lossless: Lossless = "auto"
    rank: int = 0
    low_rank: LowRankStart = "error"
    method: MethodName = "rtn"
    salient: float = 0.05
    sequential: bool = True
    tokens: Tokens = "even"
    symmetric: bool = False
    ranges: RangeName = "mse"
    scales: ScaleType = "f16"
    acts: Acts = "int8"
    act_granularity: Literal["group", "token"] = "group"
    embeddings: str = ""
    embedding_group: int | None = None
    conv_acts: ConvActs = "auto"
    conv_group: int = 16
    correct_bias: bool = True
    biases: Literal["convolutions", "all"] = "convolutions"
    correct_variance: bool = False
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.rank <= MOST_RANK:
            raise RecipeError(f"quantize: expected a rank from 0 to {MOST_RANK}, found {self.rank}")
        if self.rank and METHODS[self.method].scaled:
            raise RecipeError(
                f"method={self.method} scales the inputs, and a low-rank branch reads them plain",
                "leave out one of the two",
            )
        if not 0 <= self.salient <= 1:
            raise RecipeError(f"quantize: expected salient from 0 to 1, found {self.salient}")
        if METHODS[self.method].sums and self.weights != "binary":
            raise RecipeError(
                f"method={self.method} adds to binary weights, and found weights={self.weights}",
                "write weights=binary",
            )
        self.scheme(False)
        self.scheme(True)

    def scheme(self, embedding: bool) -> QuantScheme:
        """The scheme of ordinary sites, or of embedding tables."""
        number, group = self.weights, self.group
        if embedding:
            number = self.embeddings or number
            group = group if self.embedding_group is None else self.embedding_group
        symmetric = self.symmetric or not takes_zero_points(format_named(number))
        weight = WeightScheme(number, group, symmetric, self.scales)
        return QuantScheme(weight, self.acts, self.act_granularity)

    def run(self, model: ir.Model, context: Context) -> bool:
        jobs = list(find_jobs(model, context, self.exclude, self.scheme_of))
        means, done_to = self._mean_inputs(model, jobs, context), Counter[str]()
        changes = (self.correct_bias, self.correct_variance)
        corrections = Corrections(model, context, means, *changes, done_to)
        inserter = SiteInserter(model, context)
        for done, (job, piece, outcome) in enumerate(self._done(model, jobs, context)):
            source, sites, shape = job.source, job.sites, piece.shape
            context.progress(f"quantizing {sites[0].name}", done / len(jobs))
            if outcome.weight is None:
                for site in sites:
                    context.entry.skipped(site.name, outcome.grid, shape_of(site))
                continue
            rounded, quantized, weight = bool(outcome.grid), outcome.weight, piece.rows
            scheme = replace(piece.scheme, weight=quantized.codes.scheme)
            acts = scheme.act_group_size(weight.shape[1]) if scheme.act_bits else None
            if rounded:
                quantized = corrections.of(job, piece, quantized)
            codes, branch = quantized.codes.with_rows(shape[0]), quantized.branch
            if quantized.input_scales is not None:
                inserter.scale_inputs(source, sites, quantized.input_scales)
                done_to["scaled"] += 1
            let_go(source.const_value)
            inserter.insert(source, sites, codes, acts, scheme.act_bits or 8, branch)
            done_to["inserted"] += 1
            done_to["weighted"] += job.weighted
            packed = packed_nbytes(shape, scheme.weight, sites[0].conv, codes.scales.itemsize)
            size = (weight.nbytes, packed + quantized.nbytes_beside(shape))
            stored = f"{scheme}{quantized.beside()}"
            text = f"{stored}: weight SQNR {outcome.quality:.1f} dB"
            if not rounded:
                text = f"{scheme}: already on this grid, kept exactly"
            elif outcome.grid != NO_GRID:
                text += f"; {outcome.grid}"
            elif outcome.output is not None:
                text += f", output {outcome.output:.1f} dB"
            elif METHODS[self.method].informed and any(is_told(site, model) for site in sites):
                done_to["blind"] += 1
            for site in sites:
                context.entry.changed(site.name, text)
                context.entry.sites.append(
                    SiteRecord(site.name, site.kind, *shape, stored, *size, outcome.quality)
                )
                size = (0, 0)  # a weight counts once, however many sites share it
        self._tell(context, done_to)
        return bool(done_to["inserted"])

    def _tell(self, context: Context, done_to: Counter[str]) -> None:
        """Note what was done to how many weights."""
        every = counted(done_to["inserted"], "weight")
        if done_to["corrected"]:
            biases = counted(done_to["corrected"], "bias", "biases")
            context.entry.note(f"{biases} corrected for the mean error of the rounded weights")
        if self.correct_variance:
            context.entry.note(f"outputs of {done_to['varied']} of {every} vary as before")
        if METHODS[self.method].scaled:
            context.entry.note(
                f"{done_to['scaled']} of {every} lose less with a scale for each input; the others "
                "do not, or are read by more than matmuls, which alone take such"
            )
        if done_to["blind"]:
            context.entry.note(
                f"{done_to['blind']} of {every} met nothing but zeros, or no rows at all, on the "
                f"sample inputs: rounded as without method={self.method}"
            )
        if self.tokens != "even":
            weights = f"{done_to['weighted']} of {every}"
            context.entry.note(f"tokens count by {self.tokens} for {weights}, alike for the others")

    def _mean_inputs(
        self, model: ir.Model, jobs: list[Job], context: Context
    ) -> dict[str, np.ndarray]:
        """Mean inputs, by name, of the sites that these correct something of."""
        sites = [site for job in jobs for site in job.sites]
        everything = self.correct_variance or (self.correct_bias and self.biases == "all")
        if not everything:
            sites = [site for site in sites if self.correct_bias and site.conv is not None]
        return mean_inputs(model, sites, context)

    def _done(
        self, model: ir.Model, jobs: list[Job], context: Context
    ) -> Iterator[tuple[Job, Piece, Outcome]]:
        """Each job when it is done; the next ones wait until it is in the graph."""
        journal = self._journal(model, context)
        order = self._order(model, context, journal)
        left = dict(enumerate(jobs))
        for number, outcome in journal.read():
            job = left.pop(number)
            yield job, piece_of(job, self.scheme_of(job.sites)), outcome
        if len(left) < len(jobs):
            known = f"{len(jobs) - len(left)} of {counted(len(jobs), 'weight')}"
            context.entry.note(f"{known} had been done before and came from the cache")
        numbers = {id(job.sites): number for number, job in left.items()}
        for batch in order(list(left.values())):
            # One weight is shared out in rows, several are done side by side.
            inner = context.engine if len(batch) == 1 else ONE_AT_A_TIME
            begun: deque[tuple[Job, Piece]] = deque()
            pieces = _pieces(batch, self.scheme_of, begun)
            for outcome in context.engine.run(partial(self._rounder(), engine=inner), pieces):
                job, piece = begun.popleft()
                journal.write(numbers[id(job.sites)], outcome)
                yield job, piece, outcome

    def _order(
        self, model: ir.Model, context: Context, journal: Journal
    ) -> Callable[[list[Job]], Iterator[list[Job]]]:
        """What puts jobs in order, in lists of those that need nothing of each other."""
        if not self._is_informed(context):
            return lambda jobs: iter([jobs])
        samples = context.statistics()
        if not samples:
            informed = METHODS[self.method].informed is not None
            what = f"method={self.method}" if informed else "correct_variance"
            raise CalibrationError(
                f"{what} needs inputs to see what the weights meet, and has none",
                "give some with --calibration, or use method=rtn",
            )
        return InOrder(model, samples, self.sequential, self.tokens, journal).batches

    def _is_informed(self, context: Context) -> bool:
        looks = METHODS[self.method].informed is not None or self.correct_variance
        return looks or self._fits_branches(context)

    def _journal(self, model: ir.Model, context: Context) -> Journal:
        """What is kept of long work; Gram matrices, which variances are corrected by, are not."""
        store = context.cache
        if store is None or self.correct_variance or not self._is_informed(context):
            return Journal(None, "", context.entry.note)
        samples = digest_of(context.statistics())
        parts = [software_digest(), model_digest(model), samples, context.real, context.seed]
        return Journal(store, f"{parts} {as_options(self)}", context.entry.note)

    def _fits_branches(self, context: Context) -> bool:
        """Whether there are branches, and inputs that are not made up to fit them to."""
        return bool(self.rank and not context.made_up and context.statistics())

    def _rounder(self) -> Rounder:
        names = [field.name for field in fields(Rounder)]
        return Rounder(**{name: getattr(self, name) for name in names})

    def scheme_of(self, sites: Sequence[Site]) -> QuantScheme:
        """The scheme of ``sites``, which share a weight: its own, where one is noted on it."""
        scheme = self.scheme(any(site.kind == "gather" for site in sites))
        own = planned(sites[0].source)
        scheme = scheme if own is None else replace(scheme, weight=own)
        conv = sites[0].conv
        if conv is None:
            return scheme
        single = all(has_one_pixel(site) for site in sites)
        return conv_scheme(scheme, conv, self.conv_acts, self.target, self.conv_group, single)


def _pieces(
    jobs: list[Job],
    scheme_of: Callable[[Sequence[Site]], QuantScheme],
    begun: deque[tuple[Job, Piece]],
) -> Iterator[Piece]:
    """The pieces of jobs, one when it is asked for; both are noted in ``begun``."""
    for job in jobs:
        piece = piece_of(job, scheme_of(job.sites))
        begun.append((job, piece))
        yield piece
