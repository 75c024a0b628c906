"""``bitfold convert``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bitfold.frontend.cli.command_line import given_command
from bitfold.frontend.cli.options import (
    FILE,
    CalibrationSource,
    examples,
    json_option,
    recipe_options,
)
from bitfold.frontend.cli.output import (
    make_table,
    number,
    percent,
    print_json,
    print_table,
    shown_progress,
)
from bitfold.frontend.cli.output import (
    size as in_units,
)

if TYPE_CHECKING:
    from bitfold.frontend.made_kinds import Made
    from bitfold.passes.core.report import Divergence, Report

LEFT_OUT = ("force", "as_json", "workers", "engine", "cache")
"""Options that are not part of the command line in a report."""


@click.command(
    epilog=examples(
        "bitfold convert model.onnx -o model.w4a8.onnx",
        "bitfold convert smollm2-135m -o smollm2.w8a8.onnx --preset w8a8",
        "bitfold convert model.onnx -o out.onnx --exclude '*lm_head*' --report report/",
        "bitfold convert model.onnx -o out.onnx --passes "
        "'canonicalize, fold-norm-gain, quantize{weights=int3 group=64}, lower'",
        "bitfold convert classifier.onnx -o classifier.w8a8.onnx --preset w8a8 --samples batch.npz",
        "bitfold convert smollm2-135m -o smollm2.w4a8.onnx --calibration text.txt",
        "bitfold convert smollm2-135m -o smollm2.70mb.onnx --size 70 --calibration text.txt",
        "bitfold convert model.onnx -o model.portable.onnx --preset w8a8 --target portable",
        "bitfold convert other.onnx -o out.onnx --recipe model.w4a8.onnx",
    )
)
@click.argument("model")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="The file to write."
)
@recipe_options
@click.option(
    "--size",
    type=click.FloatRange(min=0, min_open=True),
    metavar="MB",
    help="Megabytes that the result may have: each weight gets the format that serves the outputs "
    "best within them.",
)
@click.option(
    "--samples",
    type=FILE,
    multiple=True,
    help="Inputs to check every pass on: an .npz, or a text for a language model.  May be "
    "repeated.  Default: a text that bitfold has, or made-up inputs.",
)
@click.option(
    "--calibration",
    type=CalibrationSource(),
    multiple=True,
    help="Inputs that passes take statistics from: an .npz, a folder of them, or a text.  May be "
    "repeated.  Presets of less than 8 bits, and --size, then choose codes by GPTQ.  Where there "
    "are no data: self for text that a language model writes, distilled for images to which "
    "BatchNormalizations answer as to those of training, or random.  Default: the samples.",
)
@click.option(
    "--verify",
    type=click.Choice(["off", "fast", "full"]),
    default="fast",
    show_default=True,
    help="How thoroughly the passes' promises are checked.",
)
@click.option("--strict", is_flag=True, help="Fail when an exact pass moves the outputs.")
@click.option(
    "--seed", type=click.IntRange(min=0), help="Random seed.  Default: 0, or the recipe's."
)
@click.option(
    "--report",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Folder for report.html and report.json: what every pass did, skipped, and why.",
)
@click.option(
    "--keep-fastest",
    is_flag=True,
    help="Time each site's alternatives on this machine (the target's operator, stock ORT's, "
    "float) and keep what wins.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    default=0,
    help="Weights that are quantized at a time.  Default: one on each core.",
)
@click.option(
    "--engine",
    default="threads",
    show_default=True,
    metavar="NAME",
    help="Where that is done: threads, or a backend of joblib, such as loky for processes.  The "
    "result is the same.",
)
@click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Folder to keep what calibration finds: the same conversion, stopped, goes on from there, "
    "and another --size starts from it.  It grows until you delete it.  Default: none.",
)
@click.option("--force", is_flag=True, help="Replace the output if it exists.")
@json_option
def convert(
    model: str,
    output: Path,
    preset: str | None,
    recipe: Path | None,
    passes: str | None,
    target: str | None,
    exclude: tuple[str, ...],
    size: float | None,
    samples: tuple[Path, ...],
    calibration: tuple[Path | Made, ...],
    verify: Any,
    strict: bool,
    seed: int | None,
    report: Path | None,
    keep_fastest: bool,
    workers: int,
    engine: str,
    cache: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Convert MODEL to low bits and write it to a new file.

    Each pass is checked while it runs: an exact one that moves the outputs is rolled back, a
    lossy one is charged with the damage it does.  The result is timed for a moment beside MODEL,
    and where it is slower on this machine, a line says so.
    """
    from bitfold.frontend.bench import model_bytes
    from bitfold.frontend.convert import convert as run
    from bitfold.frontend.emit import check_output
    from bitfold.frontend.feeds import load_feeds
    from bitfold.frontend.recipes import unmatched_globs
    from bitfold.frontend.sources import find_model

    check_output(output, force)
    with shown_progress(not as_json) as progress:
        source = find_model(model, progress)
        before = model_bytes(source) if source.suffix == ".onnx" else source.stat().st_size
        feeds = [each for file in samples for each in load_feeds(file, source)]
        made = [each for each in calibration if isinstance(each, str)]
        if made and len(calibration) > 1:
            raise click.UsageError(f"--calibration {made[0]}: expected no other calibration inputs")
        read = [
            each
            for file in calibration
            if isinstance(file, Path)
            for each in load_feeds(file, source)
        ]
        result = run(
            source,
            output,
            preset=preset,
            recipe=recipe,
            passes=passes,
            target=target,
            exclude=exclude,
            size=size,
            samples=feeds,
            calibration=made[0] if made else read,
            verify=verify,
            strict=strict,
            seed=seed,
            report=report,
            command=[*given_command(click.get_current_context(), LEFT_OUT), "--force"],
            force=force,
            keep_fastest=keep_fastest,
            workers=workers,
            engine=engine,
            cache=cache,
            progress=progress,
        )
    for glob in unmatched_globs(result.report, result.model):
        click.echo(f"warning: exclude: no site's name or weight matches {glob!r}", err=True)
    after = model_bytes(output)
    if as_json:
        print_json(
            {
                "model": source,
                "output": output,
                "bytes_before": before,
                "bytes": after,
                "report": result.report.as_dict(),
            }
        )
        return
    print_passes(result.report)
    for note in result.report.notes:
        click.echo(note)
    click.echo(f"{output}: {in_units(before)} -> {in_units(after)} ({before / after:.1f}x smaller)")
    if result.report.total is not None:
        click.echo(f"on the sample inputs: {described(result.report.total)}")
    for entry in result.report.rolled_back:
        click.echo(f"warning: {entry.name} was rolled back: {entry.culprit}", err=True)


def print_passes(report: Report) -> None:
    """Print a line for each pass of a report, and under them what the passes note."""
    table = make_table(
        "pass", "promise", "status", "changed", "skipped", "s", "check, s", "effect", right="3456"
    )
    for entry in report.passes:
        table.add_row(
            entry.name,
            entry.promise,
            entry.status,
            # A pass that counts nodes, not places, says in a note what it did.
            str(len(entry.changes)) if entry.changes or entry.status == "unchanged" else "-",
            str(len(entry.skips)),
            f"{entry.seconds:.1f}",
            f"{entry.verify_seconds:.1f}",
            "" if entry.divergence is None else described(entry.divergence),
        )
    print_table(table)
    for entry in report.passes:
        for note in entry.notes:
            click.echo(f"{entry.name}: {note}")


def described(divergence: Divergence) -> str:
    """A divergence in one line: of logits where there are any, of all outputs otherwise."""
    if divergence.kl is not None:
        return f"KL {number(divergence.kl, 3)}, same top-1 {percent(divergence.top1)}"
    return f"SQNR {number(divergence.sqnr_db, 3)} dB, cosine {divergence.cosine:.5f}"
