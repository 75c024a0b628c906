"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from bitfold.frontend.made_kinds import MADE, Made

F = TypeVar("F", bound=Callable[..., Any])

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
"""A file that is read."""


class CalibrationSource(click.ParamType):
    """A file or folder, or what to make inputs of; a file of that name is written ``./self``."""

    name = f"PATH|{'|'.join(MADE)}"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Path | Made:
        for kind in MADE:
            if value == kind:
                return kind
        found: Path = click.Path(exists=True, path_type=Path).convert(value, param, ctx)
        return found


def examples(*lines: str) -> str:
    """The end of a command's help: examples, one a line, kept as they are."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def json_option(function: F) -> F:
    """``--json``: the result as JSON on stdout and nothing else there."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, and no progress.")(
        function
    )


def threads_option(default: int | None) -> Callable[[F], F]:
    """``--threads``: threads inside an operator."""
    return click.option(
        "--threads",
        type=click.IntRange(min=1),
        default=default,
        show_default=default is not None,
        help="Threads inside an operator." + ("" if default else "  Default: ORT's choice."),
    )


def seed_option(function: F) -> F:
    """``--seed``: the only source of randomness."""
    return click.option(
        "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Random seed."
    )(function)


def library_option(function: F) -> F:
    """``--no-library``: run function bodies instead of kernels."""
    return click.option(
        "--library/--no-library",
        default=True,
        help="Run bitfold's operators with their kernels, or as function bodies in stock ORT.",
    )(function)


def inputs_option(function: F) -> F:
    """``--inputs``: arrays for models that do not read text."""
    return click.option(
        "--inputs",
        type=FILE,
        multiple=True,
        help="Inputs: an .npz with an array each.  May be repeated.",
    )(function)


def recipe_options(function: F) -> F:
    """``--preset``, ``--recipe`` or ``--passes``, and ``--target`` and ``--exclude``."""
    for option in (
        click.option(
            "--exclude",
            metavar="GLOB",
            multiple=True,
            help="Sites to leave in float.  May be repeated.",
        ),
        click.option(
            "--target",
            metavar="native|ort|portable",
            help="What the result must run on: bitfold's operators, those of stock ONNX Runtime, "
            "or standard ONNX alone.  Default: the recipe's, native in presets.",
        ),
        click.option("--passes", metavar="TEXT", help="A recipe as text; see the examples."),
        click.option(
            "--recipe",
            type=FILE,
            help="A recipe's .toml file, or an .onnx that bitfold wrote, to use its recipe again.",
        ),
        click.option(
            "--preset", metavar="NAME", help="A named recipe; `bitfold passes` lists them."
        ),
    ):
        function = option(function)
    return function
