"""The errors that bitfold raises, one class a cause; the CLI turns each into an exit code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar


class BitfoldError(Exception):
    """Base of all of bitfold's errors: what went wrong, and what to do about it.

    Attributes:
        hint: what the user can do, or an empty string.
        exit_code: the CLI's exit code for this cause.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class ModelError(BitfoldError):
    """The input model is broken: says the file or node, what was expected, what was found."""

    exit_code = 3


class RecipeError(BitfoldError):
    """A recipe, pass name or option that bitfold does not understand."""

    exit_code = 4


class UnsupportedError(BitfoldError):
    """A well-formed request that this version, target or machine cannot carry out."""

    exit_code = 5


class VerificationError(BitfoldError):
    """A check of the result failed."""

    exit_code = 6


class CalibrationError(BitfoldError):
    """Sample or calibration data that is missing or does not fit the model."""

    exit_code = 7


class OutputError(BitfoldError):
    """The output cannot be written: it exists, the folder is missing, the disk is full."""

    exit_code = 8


@contextmanager
def naming(name: str, hint: str = "") -> Iterator[None]:
    """Let every `ModelError` of the block say which model is broken.

    Args:
        name: the model's file, which goes before a message that does not hold it.
        hint: for errors that have none.
    """
    try:
        yield
    except ModelError as error:
        message = str(error)
        if name not in message:
            message = f"{name}: {message}"
        raise type(error)(message, error.hint or hint) from error
