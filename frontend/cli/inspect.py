"""``bitfold inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bitfold.frontend.cli.options import FILE, examples, json_option, recipe_options
from bitfold.frontend.cli.output import (
    counted,
    make_table,
    number,
    print_json,
    print_table,
    shown_progress,
    size,
)

if TYPE_CHECKING:
    from bitfold.frontend.inspection import InspectReport

LONGEST = 100
"""Characters of a metadata text that are shown."""


@click.command(
    epilog=examples(
        "bitfold inspect model.onnx",
        "bitfold inspect model.onnx --all --preset w8a8",
        "bitfold inspect model.onnx --target portable --exclude '*lm_head*'",
        "bitfold inspect model.w4a8.onnx --no-plan --json",
        "bitfold inspect model.onnx --spaces --picture spaces.html",
        "bitfold inspect smollm2-135m --spaces --statistics",
    )
)
@click.argument("model")
@recipe_options
@click.option(
    "--plan/--no-plan", default=True, help="Say what the recipe would do, and what not, and why."
)
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="List every site, not the largest ones; with --spaces, every space by itself.",
)
@click.option(
    "--spaces",
    is_flag=True,
    help="List the channel spaces instead, and what each change of coordinates could do to them.",
)
@click.option(
    "--picture",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.html",
    help="Draw the channel spaces into one HTML page that stands alone.",
)
@click.option(
    "--statistics",
    is_flag=True,
    help="With --spaces or --picture: run the model, and say how hard its activations are to "
    "quantize.",
)
@click.option(
    "--samples",
    type=FILE,
    multiple=True,
    help="Inputs for --statistics, which they imply: an .npz, or a text for a language model.  "
    "May be repeated.  Default: a text that bitfold has, or inputs of the model's task.",
)
@json_option
def inspect(
    model: str,
    preset: str | None,
    recipe: Path | None,
    passes: str | None,
    target: str | None,
    exclude: tuple[str, ...],
    plan: bool,
    everything: bool,
    spaces: bool,
    picture: Path | None,
    statistics: bool,
    samples: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Show what MODEL is made of, and what a recipe would do.

    The recipe runs on a copy, unchecked; nothing is written.
    """
    from bitfold.frontend.inspection import inspect as run
    from bitfold.frontend.sources import find_model

    if spaces or picture is not None:
        from bitfold.frontend.cli.spaces import show_spaces

        show_spaces(model, everything, picture, statistics, samples, as_json)
        return
    if statistics or samples:
        raise click.UsageError("--statistics and --samples go with --spaces or --picture")
    with shown_progress(not as_json) as progress:
        path = find_model(model, progress)
        progress("inspecting", 0.0)
        report = run(
            path,
            preset=preset,
            recipe=recipe,
            passes=passes,
            target=target,
            exclude=exclude,
            plan=plan,
        )
    if as_json:
        print_json({"model": path, **report.as_dict()})
        return
    _print_facts(path, report)
    _print_sites(report, None if everything else 12)
    if plan:
        _print_plan(report)


def _print_facts(path: Path, report: InspectReport) -> None:
    weights = ", ".join(f"{size(count)} {kind.lower()}" for kind, count in report.weights.items())
    operators = ", ".join(f"{count} {name}" for name, count in report.operators.items())
    click.echo(f"{path}: opset {report.opset}, {counted(report.nodes, 'node')}")
    click.echo(f"weights: {report.parameters / 1e6:.2f} M values, {weights}")
    click.echo(f"operators: {operators}")
    for key, value in report.metadata.items():
        click.echo(f"{key}: {cut(value)}")


def cut(text: str) -> str:
    """One line of a text that may be long, and how much was left out."""
    line = " ".join(text.split())
    if len(line) <= LONGEST:
        return line
    return f"{line[:LONGEST].rstrip()}... ({len(text)} characters; all with --json)"


def _print_sites(report: InspectReport, limit: int | None) -> None:
    shown = sorted(report.sites, key=lambda site: -site.bytes)[:limit] if limit else report.sites
    names: dict[str, str] = {
        column: "" for site in shown if site.statistics for column in vars(site.statistics)
    }
    figures = [n for n in names if all(_is_number(s.statistics, n) for s in shown if s.statistics)]
    title = counted(len(report.sites), "site") + (
        f", the {len(shown)} largest" if len(shown) < len(report.sites) else ""
    )
    table = make_table(
        "site", "kind", "out x in", "stored as", "size", *figures, title=title, right="2456789"
    )
    for site in shown:
        table.add_row(
            site.name,
            site.kind,
            f"{site.rows} x {site.columns}",
            site.scheme,
            size(site.bytes),
            *(number(getattr(site.statistics, name, None), 3) for name in figures),
        )
    print_table(table)


def _is_number(statistics: object, name: str) -> bool:
    value = getattr(statistics, name, None)
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _print_plan(report: InspectReport) -> None:
    if report.low_bit:
        click.echo("already low-bit: convert refuses it; take the float model that it is made from")
        return
    click.echo(f"recipe: {report.recipe}")
    if report.plan_error:
        click.echo(f"the recipe fails: {report.plan_error}")
        return
    table = make_table("pass", "would change", "would skip", "why", right="12")
    for entry in report.plan:
        reasons: dict[str, int] = {}
        for skip in entry.skips:
            reasons[skip.text] = reasons.get(skip.text, 0) + 1
        why = "\n".join(f"{count} x {reason}" for reason, count in reasons.items())
        table.add_row(entry.name, str(len(entry.changes)), str(len(entry.skips)), why)
    print_table(table)
