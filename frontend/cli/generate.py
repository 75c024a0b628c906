"""``bitfold generate``."""

from __future__ import annotations

import sys
import time

import click

from bitfold.frontend.cli.options import (
    examples,
    json_option,
    library_option,
    seed_option,
    threads_option,
)
from bitfold.frontend.cli.output import print_json, shown_progress


@click.command(
    epilog=examples(
        'bitfold generate smollm2-135m "The capital of France is"',
        'bitfold generate model.w4a8.onnx "Once upon a time" --temperature 0.8 --seed 1',
        "echo 'A long prompt' | bitfold generate model.w4a8.onnx -",
    )
)
@click.argument("model")
@click.argument("prompt")
@click.option(
    "--max-tokens",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="Stop after so many tokens, or earlier where the text ends.",
)
@click.option(
    "--temperature",
    type=float,
    default=0.0,
    show_default=True,
    help="0 takes the most likely token; 1 draws by the model's probabilities.",
)
@click.option("--top-k", type=int, default=0, help="Draw from the k most likely only; 0: all.")
@click.option("--top-p", type=float, default=1.0, help="Draw from this much probability only.")
@seed_option
@threads_option(default=None)
@library_option
@json_option
def generate(
    model: str,
    prompt: str,
    max_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int,
    threads: int | None,
    library: bool,
    as_json: bool,
) -> None:
    """Continue PROMPT with the language model MODEL.

    The text is printed as it comes.  A PROMPT of "-" is read from stdin.
    """
    from contextlib import ExitStack

    from bitfold.frontend.generate import Sampling
    from bitfold.frontend.generate import generate as run
    from bitfold.frontend.sources import runnable
    from bitfold.frontend.text_tokenizer import TextTokenizer
    from bitfold.runtime.session import Session

    sampling = Sampling(temperature, top_k, top_p, seed)
    if prompt == "-":
        prompt = sys.stdin.read().rstrip("\n")
    with ExitStack() as stack:
        with shown_progress(not as_json) as progress:
            path = stack.enter_context(runnable(model, progress))
            progress("loading", 0.0)
            tokenizer = TextTokenizer(path.parent)
            session = Session(path, threads=threads, library=library)
        start = time.perf_counter()
        pieces = run(session, prompt, max_tokens=max_tokens, sampling=sampling, tokenizer=tokenizer)
        if not as_json:
            click.echo(prompt, nl=False)
        text = ""
        for piece in pieces:
            text += piece
            if not as_json:
                click.echo(piece, nl=False)
        seconds = time.perf_counter() - start
    if as_json:
        print_json({"model": path, "prompt": prompt, "text": text, "seconds": seconds})
    else:
        click.echo()
