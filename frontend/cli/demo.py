"""``bitfold demo``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bitfold.frontend.cli.options import examples, json_option, threads_option
from bitfold.frontend.cli.output import (
    counted,
    make_table,
    number,
    percent,
    print_json,
    print_table,
    shown_progress,
    size,
)

if TYPE_CHECKING:
    from bitfold.frontend.demo import DemoResult, DemoRow


@click.command(
    epilog=examples(
        "bitfold demo",
        "bitfold demo --offline --preset w4a8",
        "bitfold demo --keep models/ --json",
    )
)
@click.option(
    "--preset",
    "presets",
    multiple=True,
    default=("w4a8-mixed", "w8a8"),
    show_default=True,
    help="Presets to convert with.  May be repeated.",
)
@click.option("--offline", is_flag=True, help="Use the small model that comes with bitfold.")
@click.option(
    "--keep",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Leave the converted models in this folder.",
)
@threads_option(default=2)
@json_option
def demo(
    presets: tuple[str, ...], offline: bool, keep: Path | None, threads: int, as_json: bool
) -> None:
    """Convert a real language model; compare before and after.

    Fetches SmolLM2-135M, converts it with each preset, and compares size, perplexity, KL, speed,
    load time and text with the float model.  Takes a few minutes.  Without a network it falls
    back to a small model that comes with bitfold.
    """
    from bitfold.frontend.demo import demo as run

    def say(text: str) -> None:
        click.echo(text, err=as_json)

    with shown_progress(not as_json) as progress:
        result = run(
            presets=presets,
            offline=offline,
            keep=keep,
            threads=threads,
            say=say,
            progress=progress,
        )
    if as_json:
        print_json(result.as_dict())
    else:
        print_demo(result)


def print_demo(result: DemoResult) -> None:
    """Print the table before and after, and what each model writes."""
    machine = result.machine
    click.echo(
        f"\n{result.model} on {machine['cpu']} ({'+'.join(machine['isa'])}), "
        f"{counted(result.threads, 'thread')}, onnxruntime {machine['onnxruntime']}"
    )
    table = make_table("", *(row.name for row in result.rows), right="123456789")
    table.add_row("file", *(_with_ratio(row, "bytes", size(row.bytes)) for row in result.rows))
    table.add_row("perplexity", *(f"{row.perplexity:.2f}" for row in result.rows))
    table.add_row("mean KL to float", *(number(row.kl, 3) for row in result.rows))
    table.add_row("same top-1 as float", *(percent(row.top1) for row in result.rows))
    for key, label, digits in (
        ("prefill_tps", "prefill (512), tokens/s", 4),
        ("decode_tps", "decode, tokens/s", 4),
        ("load_seconds", "load, s", 3),
    ):
        cells = [_with_ratio(row, key, number(getattr(row, key), digits)) for row in result.rows]
        table.add_row(label, *cells)
    memory = [_with_ratio(row, "peak_bytes", size(row.peak_bytes)) for row in result.rows]
    table.add_row("peak memory", *memory)
    seconds = [
        "-" if r.convert_seconds is None else f"{r.convert_seconds:.0f}" for r in result.rows
    ]
    table.add_row("conversion, s", *seconds)
    print_table(table)
    for row in result.rows:
        click.echo(f"{row.name:>6}: {' '.join((result.prompt + row.text).split())}")
    click.echo(
        f"\nPerplexity and KL are of {counted(result.chunks, 'chunk')} of 512 tokens "
        f"({result.text}): a part, to save time; `bitfold eval` scores all of it."
    )
    if not result.library:
        click.echo("The op library is not built here: bitfold's operators ran as function bodies.")
    if result.fallback is not None:
        click.echo(
            f"These are figures of the small model that comes with bitfold: {result.fallback}."
        )
    click.echo(f"Done in {result.seconds:.0f} s.")


def _with_ratio(row: DemoRow, key: str, text: str) -> str:
    return f"{text} ({row.ratios[key]:.2f}x)" if key in row.ratios else text
