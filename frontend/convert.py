"""``bitfold.convert``: a float model in, a low-bit one out, with a report of every step."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import onnx_ir as ir
from onnx import ModelProto

from bitfold.frontend.canary import check_file
from bitfold.frontend.emit import check_apart, check_output, write_model
from bitfold.frontend.importers import import_model
from bitfold.frontend.importers.tokenizer import TOKENIZER
from bitfold.frontend.keep_fastest import keep_fastest as choose_fastest
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
from bitfold.frontend.targets import check_lowered, record_target, target_of
from bitfold.frontend.task_samples import task_samples
from bitfold.frontend.text_samples import text_samples
from bitfold.models.entry import ENTRY_KEY, TASK_KEY
from bitfold.passes.core.context import Context, Feeds
from bitfold.passes.core.metadata import other_samples, recipe_of, seed_of
from bitfold.passes.core.pipeline import Pipeline
from bitfold.passes.core.recipe import Recipe
from bitfold.passes.core.report import Report
from bitfold.passes.quantize.quantize import Quantize
from bitfold.runtime.errors import UnsupportedError
from bitfold.runtime.ops import DOMAIN


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
    target: str | None = None,
    exclude: Sequence[str] = (),
    samples: Sequence[Feeds] = (),
    calibration: Sequence[Feeds] = (),
    verify: Literal["off", "fast", "full"] = "fast",
    strict: bool = False,
    seed: int | None = None,
    report: str | os.PathLike[str] | None = None,
    command: Sequence[str] = (),
    force: bool = False,
    keep_fastest: bool = False,
    progress: Callable[[str, float], None] = lambda text, fraction: None,
) -> ConvertResult:
    """Convert a model to low bits.

    Args:
        model: an ONNX or GGUF file, or a model in memory, which stays as it is.
        output: the ``.onnx`` file to write; weights go to ``<output>.data`` beside it, and so do
            a language model's tokenizer and generation settings.
        preset: a named recipe; ``w4a8`` unless ``recipe`` or ``passes`` is given.
        recipe: a recipe, a ``.toml`` file, or a model that bitfold wrote, whose recipe and seed
            are used again.
        passes: a recipe's text, or a list of passes.
        target: what the result must run on: ``native`` (bitfold's operators), ``ort`` (those of
            stock ONNX Runtime) or ``portable`` (standard ONNX); the recipe's by default.
        exclude: globs of sites to leave in float.
        samples: inputs on which every pass is checked, and from which passes take statistics where
            there is no ``calibration``.  Where none are given, a language model with its tokenizer
            beside it reads a text, a model of the catalogue gets inputs of its task, and others
            get synthesized ones.
        calibration: inputs that passes take statistics from.
        verify: how thoroughly promises are checked; the result is the same at every level, but
            for exact passes that a check takes back.
        strict: raise, instead of rolling back, when an exact pass moves the outputs.
        seed: the only source of randomness; 0 by default.
        report: a folder to write ``report.json`` and ``report.html`` into.
        command: the command line that the report offers to change; by default the one that runs
            this recipe again.
        force: replace files that exist: the model, its weights, and another model's tokenizer.
        keep_fastest: time the alternatives of each site on this machine (the target's operator,
            stock ORT's, float) and keep what wins; the report notes the times.
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
    written = _model_with_recipe(recipe)
    chosen = resolve_recipe(
        preset=preset,
        recipe=recipe if written is None else recipe_of(written),
        passes=passes,
        target=target,
        exclude=exclude,
    )
    if seed is None:
        seed = seed_of(written) if written is not None else 0
    loaded = import_model(model)
    if path is not None:
        file = Path(model) if isinstance(model, (str, os.PathLike)) else None
        check_apart(path, loaded, file)
    source = str(model) if isinstance(model, (str, os.PathLike)) else "model in memory"
    if not command:
        command = again(source, path, chosen, seed, report)
    quantizes = any(isinstance(item, Quantize) for item in chosen)
    if quantizes:
        _check_float(loaded)
    sidecars: dict[str, bytes] = {}
    if isinstance(model, (str, os.PathLike)) and path is not None:
        sidecars = read_sidecars(Path(model))
        check_sidecars(sidecars, path.parent, force)
    with Context(samples, calibration, seed, progress) as context:
        if not samples and isinstance(model, (str, os.PathLike)):
            context.sampler = partial(_real_samples, loaded, Path(model), progress)
        if verify != "off" or keep_fastest:
            context.ready_samples()
        choices = choose_fastest(loaded, chosen, context) if keep_fastest else None
        if choices is not None:
            chosen = choices.recipe
        before = Reference(loaded)
        pipeline = Pipeline(chosen, context, verify=verify, strict=strict, watch=before)
        converted, made = pipeline.run(loaded)
        if choices is not None:
            made.notes += choices.notes
            made.timings = choices.timings
        note = other_samples(written, converted) if written is not None else None
        made.notes += [] if note is None else [note]
        if folder is not None:
            written_to = str(path or "")
            entry = loaded.metadata_props.get(ENTRY_KEY, "")
            lowered = target_of(chosen) or "none"
            about = Conversion(source, written_to, lowered, command, chosen, entry)
            size_report(made, loaded, converted, NOT_RUN if verify == "off" else NOT_REACHED)
            write_report(made, folder, about)
        if quantizes:
            _check_quantized(made, chosen)
        check_lowered(made)
        record_target(converted, target_of(chosen))
        if path is not None:

            def check(complete: Path) -> None:
                if pipeline.reference is not None and verify != "off":
                    progress("running the result", 1.0)
                    check_file(complete, pipeline.reference)

            write_model(converted, path, force=force, progress=progress, check=check)
            put_sidecars(sidecars, path.parent)
        if folder is not None and verify != "off" and context.samples:
            files, feeds = (_onnx_file(model), path), context.samples[0]
            measure_report(made, loaded, before.model, converted, files, feeds, progress)
            write_report(made, folder, about)
    return ConvertResult(converted, made, path)


def _real_samples(
    model: ir.Model, path: Path, progress: Callable[[str, float], None]
) -> tuple[Sequence[Feeds], str]:
    """A text for a language model, or inputs of the task that a model of the catalogue names.

    Returns:
        The samples, none where there is neither, and where they come from.
    """
    tokenizer = path.parent / TOKENIZER
    found = text_samples(model, tokenizer, progress=progress) if tokenizer.is_file() else []
    if found:
        return found, "text"
    if path.suffix != ".onnx":
        return [], ""
    return task_samples(model, path, progress), f"task {model.metadata_props.get(TASK_KEY, '')}"


def _onnx_file(model: object) -> Path | None:
    """The file that a model was read from as it is."""
    if isinstance(model, (str, os.PathLike)) and Path(model).suffix == ".onnx":
        return Path(model)
    return None


def _model_with_recipe(recipe: Path | Recipe | None) -> ir.Model | None:
    """The model that ``recipe`` names, where it names one."""
    if isinstance(recipe, Path) and recipe.suffix == ".onnx" and recipe.is_file():
        return import_model(recipe)
    return None


def _check_float(model: ir.Model) -> None:
    """Raise where the model has been through this before: what it lost does not come back."""
    done = [
        node
        for node in model.graph.all_nodes()
        if node.domain == DOMAIN and node.op_type.startswith("LowBit")
    ]
    if done:
        raise UnsupportedError(
            f"the model is already low-bit: it has {len(done)} nodes like {done[0].name!r} "
            f"({done[0].op_type})",
            "convert the float model that it was made from",
        )


def _check_quantized(report: Report, recipe: Recipe) -> None:
    """Raise where the recipe quantizes but no site was quantized."""
    entries = [entry for entry in report.passes if entry.name == Quantize.name]
    if any(entry.status != "unchanged" for entry in entries):
        return
    skips = [skip.text for entry in entries for skip in entry.skips]
    counted = Counter(skips).most_common(3)
    reasons = "; ".join(f"{reason} ({count})" for reason, count in counted)
    raise UnsupportedError(
        f"nothing was quantized; sites skipped: {len(skips)}, for these reasons: {reasons}"
        if skips
        else "nothing was quantized: the model has no matrix product or look-up with a "
        "constant weight",
        "exclude fewer sites, or use --preset float to optimize without quantizing"
        if any(isinstance(item, Quantize) and item.exclude for item in recipe)
        else "use --preset float to optimize without quantizing",
    )
