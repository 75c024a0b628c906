"""What commands print: tables for people, JSON for machines, progress while it takes long."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bitfold.frontend.figures import counted as counted
from bitfold.frontend.figures import number as number
from bitfold.frontend.figures import percent as percent
from bitfold.frontend.figures import size as size
from bitfold.frontend.plain import to_json

if TYPE_CHECKING:
    from rich.table import Table

Progress = Callable[[str, float], None]

PIPED = 200
"""Columns of output that is no terminal."""

WIDE = 120
"""Columns of a terminal that has room for every column of a table."""

WHOLE = 32
"""The longest name that a table's first column keeps in one line."""


def print_json(data: Any) -> None:
    """Print data as JSON; numbers that JSON lacks (inf, nan) become null."""
    click.echo(to_json(data))


def print_table(table: Table) -> None:
    """Print a rich table on stdout.

    Short names and figures stay in one piece; where it is narrow, longer cells take more lines.
    """
    from rich.console import Console

    for index, column in enumerate(table.columns):
        widest = max((len(str(cell)) for cell in column.cells), default=0)
        column.no_wrap = column.justify == "right" or (index == 0 and widest <= WHOLE)
    if sys.stdout.isatty():
        Console(file=sys.stdout, markup=False, highlight=False).print(table)
        return
    # Piped output is for other programs: not cut at 80 columns, and no lines or ends of blanks.
    console = Console(file=io.StringIO(), width=PIPED, markup=False, highlight=False)
    with console.capture() as capture:
        console.print(table)
    lines = [line.rstrip() for line in capture.get().splitlines()]
    click.echo("\n".join(line for line in lines if line))


def is_narrow() -> bool:
    """Whether stdout is a terminal too narrow for all columns of a wide table."""
    from rich.console import Console

    return sys.stdout.isatty() and Console(file=sys.stdout).width < WIDE


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
