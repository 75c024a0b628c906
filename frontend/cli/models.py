"""``bitfold models``: the catalogue."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from bitfold.frontend.cli.options import examples, json_option, threads_option
from bitfold.frontend.cli.output import (
    is_narrow,
    make_table,
    number,
    percent,
    print_json,
    print_table,
    shown_progress,
    size,
)

if TYPE_CHECKING:
    from bitfold.frontend.model_table import Row


@click.group(
    epilog=examples(
        "bitfold models list", "bitfold models fetch smollm2-135m", "bitfold models build trained"
    )
)
def models() -> None:
    """List, fetch and build real models and data."""


@models.command("list", epilog=examples("bitfold models list", "bitfold models list --json"))
@json_option
def list_(as_json: bool) -> None:
    """List the models and data sets of the catalogue."""
    from bitfold.frontend.sources import TRAINED
    from bitfold.models.catalogue import DATA, MODELS, is_fetched

    rows = [
        {
            "name": TRAINED,
            "kind": "text-generation",
            "description": "Llama of 1.4 M parameters that comes with bitfold: nothing to fetch",
            "package": None,
            "licence": None,
            "cached": True,
        }
    ]
    for entry in (*MODELS, *DATA):
        rows.append(
            {
                "name": entry.name,
                "kind": getattr(entry, "task", "") or getattr(entry, "kind", ""),
                "description": entry.description,
                "package": f"{entry.package} {entry.version}"
                + (" (Debian)" * (entry.source == "deb")),
                "licence": entry.licence,
                "cached": is_fetched(entry),
            }
        )
    if as_json:
        print_json(rows)
        return
    columns = {"name": "name", "kind": "kind", "description": "what it is"}
    if not is_narrow():
        columns |= {"package": "package", "licence": "licence"}
    table = make_table(*columns.values(), "fetched")
    for row in rows:
        fetched = "yes" if row["cached"] else "no"
        cells = [str(row[key] or "") for key in columns]
        table.add_row(*cells, fetched)
    print_table(table)


@models.command(epilog=examples("bitfold models fetch lee-background"))
@click.argument("name")
@json_option
def fetch(name: str, as_json: bool) -> None:
    """Download NAME into the cache and print the path of its file."""
    from bitfold.models.catalogue import fetch as run

    with shown_progress(not as_json) as progress:
        path = run(name, progress)
    print_json({"name": name, "path": path}) if as_json else click.echo(path)


@models.command(epilog=examples("bitfold models build smollm2-135m"))
@click.argument("name")
@json_option
def build(name: str, as_json: bool) -> None:
    """Fetch the model NAME, make ONNX of it in the cache, and print the path."""
    from bitfold.frontend.importers.build import build as run
    from bitfold.frontend.sources import TRAINED, build_trained

    with shown_progress(not as_json) as progress:
        path = build_trained(progress) if name == TRAINED else run(name, progress)
    print_json({"name": name, "path": path}) if as_json else click.echo(path)


@models.command(
    epilog=examples(
        "bitfold models table",
        "bitfold models table all-minilm-l6-v2 --target native --preset w4a8",
        "bitfold models table --limit 4 --json",
    )
)
@click.argument("names", nargs=-1)
@click.option("--preset", "presets", multiple=True, help="May be repeated.  Default: w8a8, w4a8.")
@click.option(
    "--target",
    "targets",
    type=click.Choice(("native", "ort", "portable")),
    multiple=True,
    help="May be repeated.  Default: all three.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Samples of each task's data, at most.")
@threads_option(default=2)
@json_option
def table(
    names: tuple[str, ...],
    presets: tuple[str, ...],
    targets: tuple[str, ...],
    limit: int | None,
    threads: int,
    as_json: bool,
) -> None:
    """Convert the models NAMES every way and measure each by its task.

    Without NAMES, all of the catalogue: that takes some minutes.
    """
    from bitfold.frontend.model_table import PRESETS, TARGETS, model_table

    rows = []
    with shown_progress(not as_json) as progress:
        for row in model_table(
            names,
            presets=presets or PRESETS,
            targets=targets or TARGETS,
            limit=limit,
            threads=threads,
            progress=progress,
        ):
            rows.append(row)
    if as_json:
        print_json([row.as_dict() for row in rows])
    else:
        _print_rows(rows)
    if any(row.error for row in rows):
        raise click.exceptions.Exit(1)


def _print_rows(rows: list[Row]) -> None:
    columns = ("model", "metric", "recipe", "target", "size", "value", "cosine", "speed")
    shown = make_table(*columns, right="4567")
    for row in rows:
        head = (row.model, row.metric) if row.preset == "float" else ("", "")
        if row.error:
            shown.add_row(*head, row.preset, row.target, "", "failed", "", "")
            continue
        shown.add_row(
            *head,
            row.preset,
            row.target,
            size(row.size),
            percent(row.value) if row.share else number(row.value),
            "" if row.cosine is None else f"{row.cosine:.5f}",
            "" if row.speed is None else f"{row.speed:.2f}x",
        )
    print_table(shown)
    for row in rows:
        if row.error:
            click.echo(f"{row.model} {row.preset} {row.target}: {row.error}")
