"""``bitfold verify``."""

from __future__ import annotations

import math
from pathlib import Path

import click

from bitfold.frontend.cli.options import examples, inputs_option, json_option, seed_option
from bitfold.frontend.cli.output import number, percent, print_json, shown_progress


@click.command(
    epilog=examples(
        "bitfold verify model.onnx model.w4a8.onnx",
        "bitfold verify model.onnx model.w8a8.onnx --inputs sample.npz --min-cosine 0.999",
    )
)
@click.argument("reference")
@click.argument("candidate")
@inputs_option
@seed_option
@click.option("--max-kl", type=float, help="Fail where the mean KL of the logits is above.")
@click.option("--min-top1", type=float, help="Fail where fewer positions (0 to 1) agree.")
@click.option("--min-cosine", type=float, help="Fail where an output's cosine is below.")
@click.option("--min-sqnr", type=float, help="Fail where an output's SQNR, in dB, is below.")
@json_option
def verify(
    reference: str,
    candidate: str,
    inputs: tuple[Path, ...],
    seed: int,
    max_kl: float | None,
    min_top1: float | None,
    min_cosine: float | None,
    min_sqnr: float | None,
    as_json: bool,
) -> None:
    """Measure how far CANDIDATE is from REFERENCE.

    Both run on the same inputs.  Fails (exit code 6) where the candidate has a NaN or infinity
    that the reference has not, and where a bound that is given does not hold.
    """
    from bitfold.frontend.feeds import read_npz
    from bitfold.frontend.sources import find_model
    from bitfold.frontend.verification import verify as run
    from bitfold.runtime.errors import VerificationError

    with shown_progress(not as_json) as progress:
        paths = [find_model(name, progress) for name in (reference, candidate)]
        progress("running both models", 0.0)
        found = run(*paths, samples=[read_npz(path) for path in inputs], seed=seed)
    if as_json:
        print_json(vars(found))
    else:
        click.echo(f"SQNR of the worst output: {number(found.sqnr_db, 3)} dB")
        click.echo(f"cosine of the worst output: {found.cosine:.6f}")
        click.echo(f"largest error: {number(found.max_error, 3)} of the largest value")
        if found.kl is not None:
            click.echo(f"logits: mean KL {number(found.kl, 3)}, same top-1 {percent(found.top1)}")
    broken = []
    if math.isinf(found.max_error):
        broken.append("an output is missing, of another shape, or has a new NaN or infinity")
    for name, value, bound, above in (
        ("KL", found.kl, max_kl, True),
        ("top-1", found.top1, min_top1, False),
        ("cosine", found.cosine, min_cosine, False),
        ("SQNR", found.sqnr_db, min_sqnr, False),
    ):
        if bound is None:
            continue
        if value is None:
            broken.append(f"{name}: the model has no logits")
        elif math.isnan(value) or (value > bound if above else value < bound):
            word = "at most" if above else "at least"
            broken.append(f"{name}: expected {word} {bound:g}, found {value:.4g}")
    if broken:
        raise VerificationError("; ".join(broken))
