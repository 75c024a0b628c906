"""``bitfold eval``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bitfold.frontend.cli.options import (
    FILE,
    examples,
    inputs_option,
    json_option,
    library_option,
    seed_option,
    threads_option,
)
from bitfold.frontend.cli.output import (
    counted,
    make_table,
    number,
    percent,
    print_json,
    print_table,
    short,
    shown_progress,
)

if TYPE_CHECKING:
    from bitfold.frontend.evaluate import EvalResult
    from bitfold.passes.core.report import Divergence


@click.command(
    "eval",
    epilog=examples(
        "bitfold eval smollm2.w4a8.onnx --reference smollm2-135m",
        "bitfold eval smollm2.w4a8.onnx --text book.txt --chunks 8",
        "bitfold eval minilm.w8a8.onnx --reference all-minilm-l6-v2",
        "bitfold eval decoder.w8a8.onnx --task transcription --companion encoder.w8a8.onnx",
        "bitfold eval classifier.w8a8.onnx --reference classifier.onnx --inputs batch.npz",
    ),
)
@click.argument("model")
@click.option("--reference", metavar="MODEL", help="The model to compare with: the float one, say.")
@click.option(
    "--text", type=FILE, help="UTF-8 text to score on.  Default: news texts of the catalogue."
)
@click.option(
    "--chunk",
    type=click.IntRange(min=4),
    help="Tokens scored on their own, the second half of them counting.  Default: 512.",
)
@click.option("--chunks", type=click.IntRange(min=1), help="Score only so many chunks.")
@inputs_option
@click.option(
    "--task", metavar="NAME", help="Measure by this task.  Default: what the model's file names."
)
@click.option(
    "--limit", type=click.IntRange(min=1), help="Use only so many samples of the task's data."
)
@click.option(
    "--companion",
    metavar="MODEL",
    help="The other half of a model in two parts.  Default: the catalogue's float one.",
)
@threads_option(default=None)
@seed_option
@library_option
@json_option
def evaluate(
    model: str,
    reference: str | None,
    text: Path | None,
    chunk: int | None,
    chunks: int | None,
    inputs: tuple[Path, ...],
    task: str | None,
    limit: int | None,
    companion: str | None,
    threads: int | None,
    seed: int,
    library: bool,
    as_json: bool,
) -> None:
    """Measure the quality of MODEL.

    A language model gets its perplexity on a text, and against a reference the mean KL and how
    often both predict the same token.  A model of the catalogue, or converted from one, gets the
    metric of its task, and against a reference the cosine of its outputs on the task's inputs.
    Any other model, or one with --inputs, needs a reference, and gets SQNR and cosine of each
    output, and of logits and probabilities how often the largest is the same.
    """
    from contextlib import ExitStack

    from bitfold.frontend.eval_options import UnusedOptionError
    from bitfold.frontend.evaluate import evaluate as run
    from bitfold.frontend.feeds import read_npz, read_text
    from bitfold.frontend.sources import runnable

    with ExitStack() as stack:
        progress = stack.enter_context(shown_progress(not as_json))
        path = stack.enter_context(runnable(model, progress))
        other = stack.enter_context(runnable(reference, progress)) if reference else None
        half = stack.enter_context(runnable(companion, progress)) if companion else None
        try:
            result = run(
                path,
                other,
                text=None if text is None else read_text(text),
                chunk=chunk,
                chunks=chunks,
                feeds=[read_npz(each) for each in inputs],
                task=task,
                limit=limit,
                companion=half,
                threads=threads,
                library=library,
                seed=seed,
                progress=progress,
            )
        except UnusedOptionError as error:
            name = {"feeds": "inputs"}.get(error.option, error.option)
            raise click.UsageError(f"--{name} does not apply: {error.reason}") from error
    if as_json:
        print_json(result.as_dict())
    elif result.score is not None:
        _print_score(result)
    elif result.task is not None:
        _print_task(result)
    else:
        _print_outputs(result)


def _print_score(result: EvalResult) -> None:
    score, settings = result.score, result.settings
    assert score is not None
    click.echo(
        f"{counted(score.tokens, 'token')} in {score.chunks} of "
        f"{counted(settings['of_chunks'], 'chunk')} "
        f"of {settings['chunk']} (text: {settings['text']})"
    )
    table = make_table("model", "perplexity", "mean KL", "same top-1", right="123")
    if result.reference is not None:
        table.add_row(short(result.reference), f"{score.reference_perplexity or 0:.2f}")
    table.add_row(
        short(result.model), f"{score.perplexity:.2f}", number(score.kl, 3), percent(score.top1)
    )
    print_table(table)


def _print_task(result: EvalResult) -> None:
    found = result.task
    assert found is not None
    scores = [(result.model, found.score)]
    if result.reference is not None and found.reference is not None:
        scores.insert(0, (result.reference, found.reference))
    click.echo(f"{found.task}, {counted(found.score.samples, 'sample')}")
    table = make_table("model", found.score.metric, *found.score.details, right="123456789")
    for name, score in scores:
        details = [number(value) for value in score.details.values()]
        value = percent(score.value) if score.share else number(score.value)
        table.add_row(short(name), value, *details)
    print_table(table)
    if found.outputs:
        click.echo(f"outputs on {found.inputs} of its inputs")
        _print_divergences(found.outputs)


def _print_outputs(result: EvalResult) -> None:
    click.echo(counted(result.settings["samples"], f"{result.settings['inputs']} input"))
    _print_divergences(result.outputs)


def _print_divergences(outputs: dict[str, Divergence]) -> None:
    table = make_table("output", "SQNR, dB", "cosine", "largest error", "same top-1", right="1234")
    for name, found in outputs.items():
        table.add_row(
            name,
            number(found.sqnr_db, 3),
            f"{found.cosine:.6f}",
            number(found.max_error, 3),
            percent(found.top1),
        )
    print_table(table)
