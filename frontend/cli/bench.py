"""``bitfold bench``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    print_json,
    print_table,
    short,
    shown_progress,
    size,
)

if TYPE_CHECKING:
    from bitfold.frontend.bench import BenchResult


def _count(name: str, default: int, least: int, text: str) -> Any:
    kind = click.IntRange(min=least)
    return click.option(name, type=kind, default=default, show_default=True, help=text)


@click.command(
    epilog=examples(
        "bitfold bench smollm2.w4a8.onnx --vs smollm2-135m",
        "bitfold bench model.onnx --threads 1 --prefill 128 --decode 32 --json",
        "bitfold bench classifier.onnx --inputs batch.npz",
    )
)
@click.argument("model")
@click.option("--vs", metavar="OTHER", help="Another model, timed in turns with the first.")
@threads_option(default=2)
@_count("--prefill", 512, 1, "Tokens taken at once.")
@_count("--decode", 64, 1, "Tokens taken one at a time.")
@_count("--context", 0, 0, "Tokens in the cache before those.")
@_count("--rounds", 5, 1, "How often each is measured; figures are medians.")
@click.option("--text", type=FILE, help="UTF-8 text to run on.  Default: one that bitfold has.")
@inputs_option
@library_option
@seed_option
@json_option
def bench(
    model: str,
    vs: str | None,
    threads: int,
    prefill: int,
    decode: int,
    context: int,
    rounds: int,
    text: Path | None,
    inputs: tuple[Path, ...],
    library: bool,
    seed: int,
    as_json: bool,
) -> None:
    """Time MODEL: tokens a second, latency, load, memory.

    Every model runs in a process of its own, in turns with the other one.  The outputs that are
    timed are checked, and how far the two models' outputs are apart is reported beside their
    speed.  Decoding starts with an empty cache unless --context says otherwise.
    """
    from contextlib import ExitStack

    from bitfold.frontend.bench import bench as run
    from bitfold.frontend.feeds import read_npz, read_text
    from bitfold.frontend.sources import runnable
    from bitfold.frontend.text_tokenizer import TextTokenizer

    with ExitStack() as stack:
        progress = stack.enter_context(shown_progress(not as_json))
        path = stack.enter_context(runnable(model, progress))
        other = stack.enter_context(runnable(vs, progress)) if vs else None
        tokens = None
        if text is not None:
            tokens = TextTokenizer(path.parent).encode(read_text(text))
        result = run(
            path,
            other,
            threads=threads,
            prefill=prefill,
            decode=decode,
            context=context,
            rounds=rounds,
            tokens=tokens,
            feeds=read_npz(inputs[0]) if inputs else None,
            library=library,
            seed=seed,
            progress=progress,
        )
    if as_json:
        print_json(result.as_dict())
    else:
        print_bench(result)


FIGURES = (
    ("prefill_tps", "prefill, tokens/s", lambda value: number(value)),
    ("decode_tps", "decode, tokens/s", lambda value: number(value)),
    ("latency_ms", "latency, ms", lambda value: number(value, 3)),
    ("load_seconds", "load, s", lambda value: number(value, 3)),
    ("peak_bytes", "peak memory", size),
    ("bytes", "file", size),
)
"""Attribute, label and format of each line of the table."""


def print_bench(result: BenchResult) -> None:
    """Print a benchmark's figures, the machine and the divergence."""
    from bitfold.frontend.cli.convert import described
    from bitfold.frontend.cli.inspect import cut

    machine = result.machine
    isa = "+".join(machine["isa"]) or "no known extensions"
    settings = ", ".join(f"{key} {cut(str(value))}" for key, value in result.settings.items())
    click.echo(f"{machine['cpu']} ({isa}), onnxruntime {machine['onnxruntime']}; {settings}")
    ratio = ["ratio"] if result.ratios is not None else []
    heads = [short(model.model) for model in result.models]
    table = make_table("", *heads, *ratio, right="123")
    for key, label, show in FIGURES:
        values = [getattr(model, key) for model in result.models]
        if all(value is None for value in values):
            continue
        cells = [show(value) for value in values]
        if result.ratios is not None:
            cells.append(f"{result.ratios[key]:.2f}x" if key in result.ratios else "")
        table.add_row(label, *cells)
    print_table(table)
    if result.divergence is not None:
        click.echo(f"outputs on the same inputs: {described(result.divergence)}")
