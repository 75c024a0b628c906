"""``bitfold.convert``: a float model in, a low-bit one out, with a report of every step."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnx_ir as ir
from onnx import ModelProto

from bitfold.frontend.emit import check_output, write_model
from bitfold.frontend.importers import find_importer, import_model
from bitfold.frontend.importers.tokenizer import (
    GENERATION_CONFIG,
    TOKENIZER,
    TOKENIZER_CONFIG,
    export_tokenizer,
)
from bitfold.frontend.recipes import resolve_recipe
from bitfold.frontend.text_samples import text_samples
from bitfold.passes.core.context import Context, Feeds
from bitfold.passes.core.metadata import seed_of
from bitfold.passes.core.pipeline import Pipeline
from bitfold.passes.core.report import Report
from bitfold.runtime.errors import OutputError
from bitfold.runtime.session import Session


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
    recipe: Any = None,
    passes: Any = None,
    target: str | None = None,
    exclude: Sequence[str] = (),
    samples: Sequence[Feeds] = (),
    calibration: Sequence[Feeds] = (),
    verify: Literal["off", "fast", "full"] = "fast",
    strict: bool = False,
    seed: int | None = None,
    report: str | os.PathLike[str] | None = None,
    force: bool = False,
    progress: Callable[[str, float], None] = lambda text, fraction: None,
) -> ConvertResult:
    """Convert a model to low bits.

    Args:
        model: an ONNX or GGUF file, or a model in memory, which stays as it is.
        output: the ``.onnx`` file to write; weights go to ``<output>.data`` beside it.
        preset: a named recipe; ``w4a8`` unless ``recipe`` or ``passes`` is given.
        recipe: a ``.toml`` file, or a model that bitfold wrote, whose recipe and seed are
            used again.
        passes: a recipe's text, or a list of passes.
        target: what the result must run on.
        exclude: globs of sites to leave in float.
        samples: inputs on which every pass is checked.  Where none are given, a language model
            with its tokenizer beside it reads a text; others get synthesized inputs.
        calibration: inputs that passes take statistics from.
        verify: how thoroughly promises are checked.
        strict: raise, instead of rolling back, when an exact pass moves the outputs.
        seed: the only source of randomness; 0 by default.
        report: a folder to write ``report.json`` into.
        force: replace files that exist.
        progress: called with a line of text and a fraction in [0, 1].

    Raises:
        BitfoldError: the subclass says the cause; nothing is left half-written.
    """
    path = Path(output) if output is not None else None
    if path is not None:
        check_output(path, force)
    folder = prepared_folder(report) if report is not None else None
    chosen = resolve_recipe(
        preset=preset, recipe=recipe, passes=passes, target=target, exclude=exclude
    )
    if seed is None:
        replayed = recipe is not None and Path(recipe).suffix == ".onnx"
        seed = seed_of(import_model(recipe)) if replayed else 0
    loaded = import_model(model)
    if not samples and verify != "off" and isinstance(model, (str, os.PathLike)):
        tokenizer = Path(model).parent / TOKENIZER
        samples = text_samples(loaded, tokenizer) if tokenizer.is_file() else ()
    with Context(samples, calibration, seed, progress) as context:
        pipeline = Pipeline(chosen, context, verify=verify, strict=strict)
        converted, made = pipeline.run(loaded)
        if folder is not None:
            text = json.dumps(made.as_dict(), indent=2, default=str)
            (folder / "report.json").write_text(text + "\n")
        if path is not None:
            write_model(converted, path, force=force, progress=progress)
            if isinstance(model, (str, os.PathLike)):
                write_sidecars(Path(model), path.parent)
            if verify != "off":
                progress("loading the result", 1.0)
                Session(path)
    return ConvertResult(converted, made, path)


def prepared_folder(report: str | os.PathLike[str]) -> Path:
    """The folder for the report, made if it is not there."""
    folder = Path(report)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the report's folder {folder}: {error.strerror}") from error
    return folder


def write_sidecars(source: Path, folder: Path) -> None:
    """Put a language model's tokenizer and generation settings beside the converted file."""
    if find_importer(source).name == "gguf":
        export_tokenizer(source, folder)
    elif source.parent.resolve() != folder.resolve():
        for name in (TOKENIZER, TOKENIZER_CONFIG, GENERATION_CONFIG):
            if (source.parent / name).is_file():
                shutil.copyfile(source.parent / name, folder / name)
