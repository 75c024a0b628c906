"""``bitfold``: the command line.  One file a command; this one lists them."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from typing import Any

import click

from bitfold import __version__
from bitfold.frontend.cli.bench import bench
from bitfold.frontend.cli.convert import convert
from bitfold.frontend.cli.demo import demo
from bitfold.frontend.cli.evaluate import evaluate
from bitfold.frontend.cli.generate import generate
from bitfold.frontend.cli.inspect import inspect
from bitfold.frontend.cli.models import models
from bitfold.frontend.cli.options import examples
from bitfold.frontend.cli.passes import passes
from bitfold.frontend.cli.verify import verify
from bitfold.runtime.errors import BitfoldError

COMMANDS = (convert, inspect, verify, evaluate, bench, generate, passes, models, demo)
"""To add a command, write its file and add it here."""

DEBUG = "BITFOLD_DEBUG"
"""Environment variable: set to 1 to see the traceback of an error."""

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 and the number of SIGINT."""


class Cli(click.Group):
    """The group of all commands; turns errors into one line, a hint and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that ``ctx`` names."""
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            try:
                return super().invoke(ctx)
            except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
                raise  # click's own affair
            except BitfoldError as error:
                _show_error(error, str(error), error.hint)
                ctx.exit(error.exit_code)
            except KeyboardInterrupt:
                click.echo("interrupted", err=True)
                ctx.exit(INTERRUPTED)
            except Exception as error:
                message = f"{type(error).__name__}: {error}".splitlines()[0]
                _show_error(error, message, f"this is a fault of bitfold; {DEBUG}=1 shows where")
                ctx.exit(BitfoldError.exit_code)


@click.group(
    cls=Cli,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=examples(
        "bitfold convert model.onnx -o model.w4a8.onnx",
        "bitfold bench model.w4a8.onnx --vs model.onnx",
        "bitfold COMMAND --help",
    ),
)
@click.version_option(__version__, prog_name="bitfold")
def cli() -> None:
    """Turn exported ONNX models into low-bit ones: smaller, faster, same meaning.

    MODEL is a path (.onnx or .gguf) or a name that `bitfold models list` shows.
    """


for command in COMMANDS:
    cli.add_command(command)


def main() -> None:
    """The program's entry point."""
    cli(prog_name="bitfold")


def _show_error(error: BaseException, message: str, hint: str) -> None:
    if os.environ.get(DEBUG, "0") not in ("", "0"):
        traceback.print_exception(error, file=sys.stderr)
    click.echo(f"error: {' '.join(message.split())}", err=True)
    if hint:
        click.echo(f"hint: {' '.join(hint.split())}", err=True)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    click.echo(f"warning: {message}", err=True)
