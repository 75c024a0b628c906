"""``bitfold``: the command line.  One file a command; this one lists them."""

from __future__ import annotations

import errno
import os
import signal
import sys
import traceback
import warnings
from contextlib import suppress
from types import FrameType
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
from bitfold.runtime.errors import BitfoldError, OutputError

COMMANDS = (convert, inspect, verify, evaluate, bench, generate, passes, models, demo)
"""To add a command, write its file and add it here."""

DEBUG = "BITFOLD_DEBUG"
"""Environment variable: set to 1 to see the traceback of an error."""

SIGNALLED = 128
"""Exit code after a signal: this and the signal's number, 130 after Ctrl-C."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


class Terminated(KeyboardInterrupt):
    """The process was asked to end: it does as after Ctrl-C, and tidies up.

    Attributes:
        number: the signal's.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


class Cli(click.Group):
    """The group of all commands; turns errors into one line, a hint and an exit code."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run as a program, or as a test does; a full disk may show as early as in --help."""
        try:
            return super().main(*args, **kwargs)
        except OSError as error:
            if error.errno not in FULL:
                raise
            _drop_output()
            hint = "free space, or send the output elsewhere"
            _show_error(error, f"cannot write: {error.strerror}", hint)
            sys.exit(OutputError.exit_code)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that ``ctx`` names."""
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            try:
                result = super().invoke(ctx)
                sys.stdout.flush()
                return result
            except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
                raise  # click's own affair
            except BitfoldError as error:
                _show_error(error, str(error), error.hint)
                ctx.exit(error.exit_code)
            except KeyboardInterrupt as error:
                number = error.number if isinstance(error, Terminated) else signal.SIGINT
                with suppress(OSError):  # after a hangup there may be no terminal to tell
                    click.echo("terminated" if number != signal.SIGINT else "interrupted", err=True)
                ctx.exit(SIGNALLED + number)
            except Exception as error:
                if isinstance(error, OSError) and error.errno in FULL:
                    raise  # see `main`
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
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        # What nohup ignores stays ignored.
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _terminate)
    cli(prog_name="bitfold")


def _terminate(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # a second one must not disturb the tidying up
    raise Terminated(number)


def _drop_output() -> None:
    """Forget what stdout could not take, or Python would try again at exit and fail again."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _show_error(error: BaseException, message: str, hint: str) -> None:
    if os.environ.get(DEBUG, "0") not in ("", "0"):
        traceback.print_exception(error, file=sys.stderr)
    click.echo(f"error: {' '.join(message.split())}", err=True)
    if hint:
        click.echo(f"hint: {' '.join(hint.split())}", err=True)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    click.echo(f"warning: {message}", err=True)
