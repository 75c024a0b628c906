"""``bitfold inspect --spaces``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bitfold.frontend.cli.output import (
    Progress,
    counted,
    make_table,
    number,
    print_json,
    print_table,
    shown_progress,
)

if TYPE_CHECKING:
    from bitfold.frontend.space_lines import SpaceLine
    from bitfold.frontend.space_report import SpacesReport
    from bitfold.passes.core.context import Feeds


def show_spaces(
    model: str,
    everything: bool,
    picture: Path | None,
    statistics: bool,
    samples: Sequence[Path],
    as_json: bool,
) -> None:
    """Print the channel spaces of a model.

    Args:
        everything: each space by itself, not one line for those that repeat.
        picture: a page to draw them into, or None.
        statistics: measure their activations, on samples that the model is meant for unless there
            are ``samples``.
        samples: files of inputs to measure them on.
    """
    from bitfold.frontend.inspection import inspect_spaces
    from bitfold.frontend.sources import find_model
    from bitfold.frontend.space_lines import SpaceLine, fold, told_sinks

    with shown_progress(not as_json) as progress:
        path = find_model(model, progress)
        feeds = _feeds(path, samples, progress) if statistics or samples else []
        progress("looking for channel spaces", 0.0)
        report = inspect_spaces(path, picture=picture, everything=everything, samples=feeds)
    if as_json:
        print_json({"model": path, **report.as_dict()})
        return
    count = counted(len(report.spaces), "channel space")
    click.echo(f"{path}: {count} in {counted(report.nodes, 'node')} after {report.prepared}")
    lines = [SpaceLine((s,)) for s in report.spaces] if everything else fold(report.spaces)
    _print_changes(report, lines)
    if report.sinks is not None:
        _print_statistics(report, lines)
        told = told_sinks(report.sinks)
        if told:
            click.echo(told)


def _feeds(path: Path, samples: Sequence[Path], progress: Progress) -> Sequence[Feeds]:
    """The inputs in the files, or those that the model is meant for where there are no files.

    Raises:
        CalibrationError: a file cannot be read; there are no files, and no such inputs.
    """
    from bitfold.frontend.feeds import load_feeds
    from bitfold.frontend.importers import import_model
    from bitfold.frontend.real_samples import real_samples
    from bitfold.runtime.errors import CalibrationError

    if samples:
        return [each for file in samples for each in load_feeds(file, path)]
    feeds, _ = real_samples(import_model(path), path, progress)
    if not feeds:
        raise CalibrationError(
            f"{path}: no inputs are known that it is meant for",
            "give some with --samples: an .npz, or a text for a language model",
        )
    return feeds


def _print_changes(report: SpacesReport, lines: Sequence[SpaceLine]) -> None:
    """What each change of coordinates could do to the spaces."""
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


def _print_statistics(report: SpacesReport, lines: Sequence[SpaceLine]) -> None:
    """How hard the activations in the spaces are to quantize."""
    from bitfold.frontend.space_lines import massive_in

    table = make_table(
        *("space", "places", "tokens", "kurtosis", "at most", "max/median", "at most"),
        *("utilization", "massive"),
        title=f"what linear ops read, on {counted(report.samples, 'sample')}",
        right="1234567",
    )
    for line in lines:
        found = line.statistics
        if found is None:
            continue
        figures = (
            *(found.kurtosis_median, found.kurtosis_max),
            *(found.peak_ratio_median, found.peak_ratio_max, found.utilization),
        )
        table.add_row(
            line.title,
            str(found.places),
            str(found.tokens),
            *(number(figure, 3) for figure in figures),
            massive_in(found),
        )
    print_table(table)
