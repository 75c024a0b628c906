"""``bitfold.convert``: a float model in, a low-bit one out, with a report of every step."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import onnx_ir as ir
from onnx import ModelProto

from bitfold.frontend.canary import check_file
from bitfold.frontend.convert_checks import check_float, check_quantized
from bitfold.frontend.emit import check_apart, check_output, write_model
from bitfold.frontend.gathered_feeds import gathered
from bitfold.frontend.importers import BROKEN, import_model
from bitfold.frontend.keep_fastest import keep_fastest as choose_fastest
from bitfold.frontend.made_calibration import UNPROVEN, made_calibration
from bitfold.frontend.made_kinds import Made
from bitfold.frontend.real_samples import real_samples
from bitfold.frontend.recipes import resolve_recipe
from bitfold.frontend.report.command import again
from bitfold.frontend.report.html import Conversion
from bitfold.frontend.report.measure import (
    NOT_REACHED,
    NOT_RUN,
    Reference,
    measure_report,
    size_report,
)
from bitfold.frontend.report.write import checked_folder, write_report
from bitfold.frontend.sidecars import check_sidecars, put_sidecars, read_sidecars
from bitfold.frontend.slowdown import relative_time, slower_note
from bitfold.frontend.targets import check_lowered, record_target, target_of
from bitfold.models.entry import ENTRY_KEY
from bitfold.passes.core.context import GIVEN, Context, Feeds
from bitfold.passes.core.metadata import other_samples, recipe_of, seed_of
from bitfold.passes.core.parallel import THREADS, Engine
from bitfold.passes.core.pipeline import Level, Pipeline
from bitfold.passes.core.recipe import Recipe
from bitfold.passes.core.report import Report
from bitfold.passes.core.stage import Stage
from bitfold.passes.core.store import Store
from bitfold.passes.quantize.quantize import Quantize
from bitfold.runtime.errors import naming


@dataclass(frozen=True)
class ConvertResult:
    """What a conversion made.

    Attributes:
        model: the converted model.
        report: what each pass did.
        path: the file written, if any.
    """

    model: ir.Model
    report: Report
    path: Path | None


def convert(
    model: str | os.PathLike[str] | ModelProto | ir.Model,
    output: str | os.PathLike[str] | None = None,
    *,
    preset: str | None = None,
    recipe: str | os.PathLike[str] | Recipe | None = None,
    passes: Any = None,
    size: float | None = None,
    target: str | None = None,
    exclude: Sequence[str] = (),
    samples: Sequence[Feeds] = (),
    calibration: Iterable[Feeds] | Made = (),
    verify: Level = "fast",
    strict: bool = False,
    seed: int | None = None,
    report: str | os.PathLike[str] | None = None,
    command: Sequence[str] = (),
    force: bool = False,
    keep_fastest: bool = False,
    workers: int = 0,
    engine: str = THREADS,
    cache: str | os.PathLike[str] | None = None,
    progress: Callable[[str, float], None] = lambda text, fraction: None,
) -> ConvertResult:
    """Convert a model to low bits.

    Args:
        model: an ONNX or GGUF file, or a model in memory, which stays as it is.
        output: the ``.onnx`` file to write; weights go to ``<output>.data`` beside it, and so do
            a language model's tokenizer and generation settings.
        preset: a named recipe; ``w4a8`` unless ``recipe``, ``passes`` or ``size`` is given.
        recipe: a recipe, a ``.toml`` file, or a model that bitfold wrote, whose recipe and seed
            are used again.
        passes: a recipe's text, or a list of passes.
        size: megabytes (1e6 bytes) that the result may have: each weight gets the format that
            serves the outputs best within them, and its codes by GPTQ where there is
            ``calibration``.
        target: what the result must run on: ``native`` (bitfold's operators), ``ort`` (those of
            stock ONNX Runtime) or ``portable`` (standard ONNX); the recipe's by default.
        exclude: globs of sites to leave in float.
        samples: inputs on which every pass is checked, and from which passes take statistics where
            there is no ``calibration``.  Where none are given, a language model with its tokenizer
            beside it reads a text, a model of the catalogue gets inputs of its task, and others
            get synthesized ones.
        calibration: inputs that passes take statistics from, in a list or from an iterator, which
            is read once and kept on disk; presets of less than 8 bits then choose codes by GPTQ.
            Where there are no data, what to make them of: ``self`` for text that a language model
            writes, ``distilled`` for images to which BatchNormalizations answer as to those of
            training (needs torch), ``random`` for noise, which no preset rounds by.
        verify: how thoroughly promises are checked; the result is the same at every level, but
            for exact passes that a check takes back.  Unless it is ``off``, a file that is written
            is timed beside the float model, in a second or two; where it is slower, a note of the
            report says so.
        strict: raise, instead of rolling back, when an exact pass moves the outputs.
        seed: the only source of randomness; 0 by default.
        report: a folder to write ``report.json`` and ``report.html`` into.
        command: the command line that the report offers to change; by default the one that runs
            this recipe again.
        force: replace files that exist: the model, its weights, and another model's tokenizer.
        keep_fastest: time the alternatives of each site on this machine (the target's operator,
            stock ORT's, float) and keep what wins; the report notes the times.
        workers: weights that are quantized at a time; 0 for one on each core.
        engine: where that is done: ``threads``, or a backend of joblib (extra ``cluster``):
            ``loky`` for processes, ``dask`` or ``ray`` for a cluster that was connected to before.
            The result is the same.
        cache: a folder to keep what calibration finds, weight by weight: a conversion that was
            stopped goes on from there, and gives what it would have given; another ``size`` need
            not find out again what each weight does to the outputs.  It grows until it is deleted.
        progress: called with a line of text and a fraction in [0, 1].

    Raises:
        OutputError: a file exists, or a tokenizer of another model lies in the output's folder,
            and ``force`` is off; the output is the model itself; the disk refuses.
        UnsupportedError: the recipe quantizes, but the model is low-bit already, or has nothing
            that can be quantized; the target has no operator for a site's scheme.
        VerificationError: the result does not give what the quantized model gives.
        BitfoldError: the subclass says the cause; nothing is left half-written.
    """
    path = Path(output) if output is not None else None
    if path is not None:
        check_output(path, force)
    folder = checked_folder(report) if report is not None else None
    if recipe is not None and not isinstance(recipe, Recipe):
        recipe = Path(recipe)
    recorded = _model_with_recipe(recipe)
    chosen = resolve_recipe(
        preset=preset,
        recipe=recipe if recorded is None else recipe_of(recorded),
        passes=passes,
        size=size,
        calibrated=bool(calibration) and calibration != "random",
        target=target,
        exclude=exclude,
    )
    if seed is None:
        seed = seed_of(recorded) if recorded is not None else 0
    loaded = import_model(model)
    file = Path(model) if isinstance(model, (str, os.PathLike)) else None
    if path is not None:
        check_apart(path, loaded, file)
    quantizes = any(isinstance(item, Quantize) for item in chosen)
    if quantizes:
        check_float(loaded)
    sidecars: dict[str, bytes] = {}
    if file is not None and path is not None:
        sidecars = read_sidecars(file)
        check_sidecars(sidecars, path.parent, force)
    source = str(file or "model in memory")
    command = command or again(source, path, chosen, seed, report)
    checked = verify != "off"
    given = () if isinstance(calibration, str) else gathered(calibration)
    store = None if cache is None else Store(cache)
    where = Engine(engine, workers)
    context = Context(samples, given, seed, progress, cache=store, engine=where)
    with naming(source, BROKEN), context:
        if isinstance(calibration, str):
            inputs = made_calibration(calibration, loaded, file, seed, progress)
            context.calibration, context.calibration_origin = inputs.feeds, inputs.origin
        if not samples and file is not None:
            context.sampler = partial(real_samples, loaded, file, progress)
        if checked or keep_fastest:
            context.ready_samples()
        run = _run(loaded, chosen, context, verify, strict, keep_fastest)
        if recorded is not None:
            _note_other_samples(run, recorded)
        if context.calibration_origin != GIVEN:
            run.report.notes.append(f"calibrated on {context.calibration_origin}: {UNPROVEN}")
        about = _about(run, loaded, source, path, command)
        if folder is not None:
            size_report(run.report, loaded, run.model, NOT_REACHED if checked else NOT_RUN)
            write_report(run.report, folder, about)
        if quantizes:
            check_quantized(run.report, chosen)
        check_lowered(run.report)
        record_target(run.model, target_of(run.recipe))
        if path is not None:
            _write(run, path, force, checked, progress)
            put_sidecars(sidecars, path.parent)
        if checked and context.samples:
            feeds = context.samples[0]
            if path is not None:
                _compare_speed(run, loaded, feeds, keep_fastest, progress)
            if folder is not None:
                files = (_onnx_file(file), path)
                made = (loaded, run.lossless, run.model)
                measure_report(run.report, *made, files, feeds, progress)
                write_report(run.report, folder, about)
    return ConvertResult(run.model, run.report, path)


@dataclass(frozen=True)
class _Run:
    """What a recipe made.

    Attributes:
        recipe: what was run: with ``keep_fastest``, what that chose.
        lossless: the model before the first lossy pass.
        reference: what the result must give.
    """

    model: ir.Model
    report: Report
    recipe: Recipe
    lossless: ir.Model
    reference: Stage | None


def _run(
    model: ir.Model,
    recipe: Recipe,
    context: Context,
    verify: Level,
    strict: bool,
    keep_fastest: bool,
) -> _Run:
    """Run the recipe, or the one that keeps what is fastest."""
    choices = choose_fastest(model, recipe, context) if keep_fastest else None
    if choices is not None:
        recipe = choices.recipe
    before = Reference(model)
    pipeline = Pipeline(recipe, context, verify=verify, strict=strict, watch=before)
    converted, report = pipeline.run(model)
    if choices is not None:
        report.notes += choices.notes
        report.timings = choices.timings
    return _Run(converted, report, recipe, before.model, pipeline.reference)


def _note_other_samples(run: _Run, recorded: ir.Model) -> None:
    note = other_samples(recorded, run.model)
    if note is not None:
        run.report.notes.append(note)


def _about(
    run: _Run, model: ir.Model, source: str, path: Path | None, command: Sequence[str]
) -> Conversion:
    """What the report's page says about the conversion."""
    lowered = target_of(run.recipe) or "none"
    entry = model.metadata_props.get(ENTRY_KEY, "")
    return Conversion(source, str(path or ""), lowered, command, run.recipe, entry)


def _write(
    run: _Run, path: Path, force: bool, checked: bool, progress: Callable[[str, float], None]
) -> None:
    """Write the result; with ``checked``, only if the file gives what it must."""

    def check(complete: Path) -> None:
        if run.reference is not None and checked:
            progress("running the result", 1.0)
            check_file(complete, run.model, run.reference)

    write_model(run.model, path, force=force, progress=progress, check=check)


def _compare_speed(
    run: _Run,
    model: ir.Model,
    feeds: Feeds,
    keep_fastest: bool,
    progress: Callable[[str, float], None],
) -> None:
    """Put into the report how the result's speed compares with the float model's."""
    progress("timing the result", 1.0)
    run.report.relative_time = relative_time(model, run.model, feeds)
    note = slower_note(run.report.relative_time, run.recipe, keep_fastest)
    if note:
        run.report.notes.append(note)


def _onnx_file(file: Path | None) -> Path | None:
    """The file that a model was read from, where that can be run as it is."""
    return file if file is not None and file.suffix == ".onnx" else None


def _model_with_recipe(recipe: Path | Recipe | None) -> ir.Model | None:
    """The model that ``recipe`` names, where it names one."""
    if isinstance(recipe, Path) and recipe.suffix == ".onnx" and recipe.is_file():
        return import_model(recipe)
    return None
