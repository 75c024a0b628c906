"""``bitfold inspect --spaces``."""

from __future__ import annotations

from pathlib import Path

import click

from bitfold.frontend.cli.output import (
    counted,
    make_table,
    print_json,
    print_table,
    shown_progress,
)


def show_spaces(model: str, everything: bool, picture: Path | None, as_json: bool) -> None:
    """Print the channel spaces of a model.

    Args:
        everything: each space by itself, not one line for those that repeat.
        picture: a page to draw them into, or None.
    """
    from bitfold.frontend.inspection import inspect_spaces
    from bitfold.frontend.sources import find_model
    from bitfold.frontend.space_lines import SpaceLine, fold

    with shown_progress(not as_json) as progress:
        path = find_model(model, progress)
        progress("looking for channel spaces", 0.0)
        report = inspect_spaces(path, picture=picture, everything=everything)
    if as_json:
        print_json({"model": path, **report.as_dict()})
        return
    count = counted(len(report.spaces), "channel space")
    click.echo(f"{path}: {count} in {counted(report.nodes, 'node')} after {report.prepared}")
    lines = [SpaceLine((s,)) for s in report.spaces] if everything else fold(report.spaces)
    changes = [
        word
        for word in ("rotate", "scale", "permute", "center")
        if any(space.verdicts[word].word for space in report.spaces)
    ]
    table = make_table(
        "space", "first writer", "channels", "writers", "readers", *changes, "why not", right="234"
    )
    for line in lines:
        first = line.spaces[0]
        table.add_row(
            line.title,
            line.name,
            line.channels,
            str(len(first.writers)),
            str(len(first.readers)),
            *(first.verdicts[word].word for word in changes),
            "\n".join(line.why_not()),
        )
    print_table(table)
