"""What commands print: tables for people, JSON for machines, progress while it takes long."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bitfold.frontend.figures import number as number
from bitfold.frontend.figures import percent as percent
from bitfold.frontend.figures import size as size
from bitfold.frontend.plain import to_json

if TYPE_CHECKING:
    from rich.table import Table

Progress = Callable[[str, float], None]


def print_json(data: Any) -> None:
    """Print data as JSON; numbers that JSON lacks (inf, nan) become null."""
    click.echo(to_json(data))


def print_table(table: Table) -> None:
    """Print a rich table on stdout."""
    from rich.console import Console

    # Piped output is for other programs: it must not be cut at 80 columns.
    width = None if sys.stdout.isatty() else 200
    Console(file=sys.stdout, width=width, markup=False, highlight=False).print(table)


def make_table(*columns: str, title: str | None = None, right: str = "") -> Table:
    """A table; the columns whose index is a digit of ``right`` are aligned to the right."""
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE, pad_edge=False)
    for index, column in enumerate(columns):
        numeric = str(index) in right
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    return table


@contextmanager
def shown_progress(enabled: bool = True) -> Iterator[Progress]:
    """A progress bar on stderr, fed by the callback; nothing where stderr is no terminal."""
    if not enabled or not sys.stderr.isatty():
        yield lambda text, fraction: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(24), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(
        *columns,
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=sys.stdout.isatty(),  # else what is piped would end up on stderr
    ) as bar:
        task = bar.add_task("", total=1.0)

        def update(text: str, fraction: float) -> None:
            bar.update(task, description=text.replace("[", r"\["), completed=fraction)

        yield update


def short(path: str | Path) -> str:
    """A model's name for a table's head: its file, or its folder where the file says nothing."""
    path = Path(path)
    return path.parent.name if path.name == "model.onnx" and path.parent.name else path.name
