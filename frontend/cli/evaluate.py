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


@click.command(
    "eval",
    epilog=examples(
        "bitfold eval smollm2.w4a8.onnx --reference smollm2-135m",
        "bitfold eval smollm2.w4a8.onnx --text book.txt --chunks 8",
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
    default=512,
    show_default=True,
    help="Tokens scored on their own, the second half of them counting.",
)
@click.option("--chunks", type=click.IntRange(min=1), help="Score only so many chunks.")
@inputs_option
@threads_option(default=None)
@seed_option
@library_option
@json_option
def evaluate(
    model: str,
    reference: str | None,
    text: Path | None,
    chunk: int,
    chunks: int | None,
    inputs: tuple[Path, ...],
    threads: int | None,
    seed: int,
    library: bool,
    as_json: bool,
) -> None:
    """Measure the quality of MODEL.

    A language model gets its perplexity on a text, and against a reference the mean KL and how
    often both predict the same token.  Any other model needs a reference, and gets SQNR, cosine
    and top-1 agreement of each output.
    """
    from contextlib import ExitStack

    from bitfold.frontend.evaluate import evaluate as run
    from bitfold.frontend.feeds import read_npz, read_text
    from bitfold.frontend.sources import runnable

    with ExitStack() as stack:
        progress = stack.enter_context(shown_progress(not as_json))
        path = stack.enter_context(runnable(model, progress))
        other = stack.enter_context(runnable(reference, progress)) if reference else None
        result = run(
            path,
            other,
            text=None if text is None else read_text(text),
            chunk=chunk,
            chunks=chunks,
            feeds=[read_npz(each) for each in inputs],
            threads=threads,
            library=library,
            seed=seed,
            progress=progress,
        )
    if as_json:
        print_json(result.as_dict())
    elif result.score is not None:
        _print_score(result)
    else:
        _print_outputs(result)


def _print_score(result: EvalResult) -> None:
    score, settings = result.score, result.settings
    assert score is not None
    click.echo(
        f"{score.tokens} tokens in {score.chunks} of {settings['of_chunks']} chunks "
        f"of {settings['chunk']} (text: {settings['text']})"
    )
    table = make_table("model", "perplexity", "mean KL", "same top-1", right="123")
    if result.reference is not None:
        table.add_row(short(result.reference), f"{score.reference_perplexity or 0:.2f}")
    table.add_row(
        short(result.model), f"{score.perplexity:.2f}", number(score.kl, 3), percent(score.top1)
    )
    print_table(table)


def _print_outputs(result: EvalResult) -> None:
    click.echo(f"{result.settings['samples']} {result.settings['inputs']} inputs")
    table = make_table("output", "SQNR, dB", "cosine", "largest error", "same top-1", right="1234")
    for name, found in result.outputs.items():
        table.add_row(
            name,
            number(found.sqnr_db, 3),
            f"{found.cosine:.6f}",
            number(found.max_error, 3),
            percent(found.top1),
        )
    print_table(table)
