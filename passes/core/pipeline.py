"""The pipeline: runs a recipe's passes and holds each of them to its promise."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np
import onnx_ir as ir

from bitfold.passes.core.base import Pass, Promise
from bitfold.passes.core.blame import Difference
from bitfold.passes.core.compare import compare_outputs, is_float
from bitfold.passes.core.context import MADE_UP, Context, Feeds
from bitfold.passes.core.invariants import check_invariants
from bitfold.passes.core.local_check import local_difference
from bitfold.passes.core.metadata import versions, write_provenance
from bitfold.passes.core.noise import judge_outputs
from bitfold.passes.core.own_coordinates import carry_rotations, to_own
from bitfold.passes.core.recipe import Recipe, as_options, format_text
from bitfold.passes.core.report import Divergence, PassEntry, Report
from bitfold.passes.core.samples import check_feeds, prepare_samples
from bitfold.passes.core.sizes import check_sizes
from bitfold.passes.core.spool import let_go_of_all
from bitfold.passes.core.stage import Stage, same_computation, snapshot
from bitfold.passes.core.stand_in import check_runs, settle
from bitfold.passes.core.verify import first_difference
from bitfold.runtime.errors import BitfoldError, RecipeError, VerificationError

Level = Literal["off", "fast", "full"]


class Pipeline:
    """A recipe bound to a context.

    After each pass the graph's invariants are checked, and its promise, as ``verify`` says:

    ========  ==============================================================================
    ``off``   nothing is run
    ``fast``  exact passes on the first sample; lossy passes measured on all samples
    ``full``  every pass on all samples
    ========  ==============================================================================

    An exact pass that moves the outputs (see :mod:`~bitfold.passes.core.noise` for how far is
    too far), breaks an invariant, or makes a model that ORT refuses, is rolled back: the
    pipeline goes on without it, and the report says so and names the first node that differs.
    A lossy pass is charged with the divergence between its own before and after; one that
    breaks the model is an error, since going on without it would give a float model.

    Args:
        recipe: a :class:`Recipe`, its text, or a list of passes and rewrite rules.
        context: what the passes share; an empty one by default.
        verify: how much is checked.
        strict: raise instead of rolling back.
        tolerance: how far an exact pass may move an output, relative to the output's largest
            magnitude; by default what rounding explains.
        threads: threads that the checks run on; 0 lets ORT choose.
        watch: called after each pass with its entry and the model to go on with, which no later
            pass changes.

    Attributes:
        reference: after a run, the stage that the last lossy pass left (the original where there
            is none), with its outputs on the samples: what the result must give.
    """

    def __init__(
        self,
        recipe: Any,
        context: Context | None = None,
        *,
        verify: Level = "fast",
        strict: bool = False,
        tolerance: float | None = None,
        threads: int = 0,
        watch: Callable[[PassEntry, ir.Model], None] = lambda entry, model: None,
    ) -> None:
        if verify not in get_args(Level):
            raise RecipeError(
                f"verify: expected one of {', '.join(get_args(Level))}, found {verify!r}"
            )
        self.recipe = Recipe.of(recipe)
        self.context = context if context is not None else Context()
        self.verify = verify
        self.strict = strict
        self.tolerance = tolerance
        self.threads = threads
        self.watch = watch
        self.reference: Stage | None = None

    def run(self, model: ir.Model) -> tuple[ir.Model, Report]:
        """Run the recipe on a clone of ``model``, which shares its weights and stays as it is.

        Raises:
            ModelError: the model was broken to begin with, or ORT does not run it.
            CalibrationError: a sample input does not fit the model.
            VerificationError: a lossy pass broke the model; with ``strict``, any broken promise.
            BitfoldError: a pass failed; the message names it and the passes before it.
        """
        started = time.perf_counter()
        report = Report(format_text(self.recipe), self.context.seed, versions())
        check_invariants(model, node_names=False)
        original = snapshot(model)
        ir.passes.common.NameFixPass()(original)
        for number, feeds in enumerate(self.context.calibration):
            check_feeds(original.graph, feeds, f"calibration sample {number}")
        first = Stage(original, (), self.threads)
        self.context.drawn_from = ""
        if self.verify != "off":
            self.context.progress("sample inputs", 0.0)
            check_sizes(original)
            note = settle(first, self.context)
            if note:
                report.notes.append(note)
            self._take_samples(first)
        else:
            for number, feeds in enumerate(self.context.samples):
                check_feeds(original.graph, feeds, f"sample {number}")
            # A pass that wants samples gets the very ones that the checks would have made.
            self.context.sampler = self._sampler(original)
        stage = self.reference = first
        for index, item in enumerate(self.recipe):
            self.context.progress(item.name, index / len(self.recipe))
            entry = PassEntry(item.name, as_options(item), item.promise.value)
            report.passes.append(entry)
            clock = time.perf_counter()
            stage.close()  # its session would keep buffers while the pass works
            after = self._apply(item, entry, stage.model, report)
            for each in (stage.model, after):
                let_go_of_all(each)  # a session reads the files itself
            entry.seconds = time.perf_counter() - clock
            clock = time.perf_counter()
            stage = self._checked(item, entry, stage, after)
            entry.verify_seconds = time.perf_counter() - clock
            if item.promise is Promise.LOSSY:
                self.reference = stage
            self.watch(entry, stage.model)
        report.total = self._total(first, stage)
        report.notes += _blind_spots(first)
        result = snapshot(original) if stage.model is original else stage.model
        pairs = zip(self.recipe, report.passes, strict=True)
        kept = tuple(item for item, entry in pairs if entry.status != "rolled-back")
        write_provenance(result, Recipe(kept), self.context.seed, self.context.drawn_from)
        report.seconds = time.perf_counter() - started
        self.context.progress("done", 1.0)
        return result, report

    def _take_samples(self, first: Stage) -> None:
        """Put the samples into the context and into ``first``, the original model's stage."""
        if not self.context.ready_samples():
            self.context.origin = MADE_UP
        first.take_samples(prepare_samples(first.model, self.context, first.try_out))
        self.context.samples = first.samples

    def _sampler(self, original: ir.Model) -> Callable[[], tuple[Sequence[Feeds], str]]:
        """Makes the samples when a pass asks for them."""
        given = self.context.sampler

        def sampler() -> tuple[Sequence[Feeds], str]:
            self.context.sampler = given
            check_sizes(original)
            stage = Stage(original, (), self.threads)
            settle(stage, self.context)
            self._take_samples(stage)
            return self.context.samples, self.context.origin

        return sampler

    def _apply(self, item: Pass, entry: PassEntry, before: ir.Model, report: Report) -> ir.Model:
        """Run the pass on a clone of ``before``; the tensors are shared, and never written to."""
        after = snapshot(before)
        self.context.entry = entry
        try:
            changed = item.run(after, self.context)
        except Exception as error:
            earlier = ", ".join(e.name for e in report.passes[:-1]) or "no other pass"
            message = f"pass {item.name} failed after {earlier}: {error}"
            if isinstance(error, BitfoldError):
                raise type(error)(message, error.hint) from error
            if self.verify == "off":
                # Nothing has run the model yet: it may be the model that is broken.
                check_runs(before, self.context)
            message = f"pass {item.name} failed after {earlier}: {type(error).__name__}: {error}"
            raise BitfoldError(
                message, hint="this is a fault of the pass, not of the model"
            ) from error
        entry.status = "applied" if changed else "unchanged"
        _name_nodes(after)
        carry_rotations(before.graph, after.graph)
        return after

    def _checked(self, item: Pass, entry: PassEntry, before: Stage, model: ir.Model) -> Stage:
        """The stage to go on with: ``model``'s, or ``before`` where the promise is broken."""
        if same_computation(before.model, model):
            before.close()
            return before.followed_by(model)
        after = Stage(model, before.samples, self.threads)
        if entry.status == "unchanged":
            entry.status = "applied"
            entry.note("the pass said that it changed nothing, but it did")
        try:
            check_invariants(after.model, before.model)
            if before.runs is not before.model and self.verify != "off":
                settle(after, self.context)
            culprit = self._broken_promise(item, entry, before, after)
        except BitfoldError as error:
            if item.promise is Promise.LOSSY:
                raise VerificationError(
                    f"pass {item.name} broke the model: {error}", error.hint
                ) from error
            culprit = str(error)
        if culprit is None:
            before.close()
            return after
        entry.status, entry.culprit = "rolled-back", culprit
        entry.changes.clear()
        message = f"exact pass {item.name} changed the model's outputs: {culprit}"
        if self.strict:
            raise VerificationError(message, hint="leave the pass out, or run without strict")
        self.context.progress(f"ROLLED BACK {message}", 0.0)
        return before

    def _broken_promise(
        self, item: Pass, entry: PassEntry, before: Stage, after: Stage
    ) -> str | None:
        """Measure the pass; what an exact one did wrong, or None."""
        if self.verify == "off":
            return None
        every = item.promise is Promise.LOSSY or self.verify == "full"
        indices = range(len(before.samples) if every else 1)
        for index in indices:
            before.outputs(index)
        before.close()  # one session at a time: each keeps buffers of its own
        if item.promise is Promise.LOSSY:
            entry.divergence = _divergence(before, after, indices)
            return None
        for index in indices:
            feeds: Feeds = before.samples[index]
            expected, found = before.outputs(index), after.outputs(index)
            verdict = judge_outputs(before.runs, feeds, expected, found, self.tolerance)
            where: Difference | None = None
            if verdict.chaotic:
                # Noise this large could hide a wrong pass, or convict a right one.
                after.close()
                own = to_own(before.model.graph.inputs, feeds)
                where = local_difference(before.runs, after.runs, own)
                if where is None:
                    note = "checked piece by piece: rounding alone moves the outputs far"
                    if note not in entry.notes:
                        entry.note(note)
                    continue
            elif verdict.reason is not None:
                after.close()
                own = to_own(before.model.graph.inputs, feeds)
                where = first_difference(before.runs, after.runs, own, self.tolerance)
            else:
                continue
            entry.divergence = _divergence(before, after, [index])
            reason = verdict.reason or "found by comparing piece by piece"
            return f"{where}; {reason}" if where else reason
        if self.verify == "full":
            entry.divergence = _divergence(before, after, indices)
        return None

    def _total(self, first: Stage, last: Stage) -> Divergence | None:
        """The divergence of the result from the original, on what the level checks."""
        if self.verify == "off":
            return None
        lossy = any(item.promise is Promise.LOSSY for item in self.recipe)
        every = lossy or self.verify == "full"
        try:
            return _divergence(first, last, range(len(first.samples) if every else 1))
        except BitfoldError as error:
            # The fast level checks an exact pass on one sample only.
            raise VerificationError(
                f"the result does not run on every sample: {error}",
                hint="verify=full finds the pass that broke it",
            ) from error


def _blind_spots(stage: Stage) -> list[str]:
    """Outputs of the original model that hold no finite number, on which no check sees anything."""
    return [
        f"output {name!r} has no finite number on sample {index}: nothing was checked there; "
        "give inputs that the model is meant for"
        for index, outputs in sorted(stage.computed.items())
        for name, array in outputs.items()
        if is_float(array) and array.size and not np.isfinite(array.astype(np.float32)).any()
    ]


def _divergence(before: Stage, after: Stage, indices: Sequence[int]) -> Divergence:
    for stage in (after, before):  # one session at a time; ``after`` may have one already
        for index in indices:
            stage.outputs(index)
        stage.close()
    return compare_outputs((before.outputs(i), after.outputs(i)) for i in indices)


def _name_nodes(model: ir.Model) -> None:
    """Give nodes that a pass left without a name, or with one that is taken, a name of their own.

    Values are left alone: two values of one name are an error that the invariants report.
    """
    for graph in [model.graph, *(function.graph for function in model.functions.values())]:
        taken: set[str] = set()
        for node in graph:
            if not node.name or node.name in taken:
                base = node.name or node.op_type
                number = 1
                while f"{base}_{number}" in taken:
                    number += 1
                node.name = f"{base}_{number}"
            taken.add(node.name)
