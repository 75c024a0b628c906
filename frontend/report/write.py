"""Write a report into its folder: `report.json` for programs, `report.html` for people."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from bitfold.frontend.plain import to_json
from bitfold.frontend.report.html import Conversion, page
from bitfold.passes.core.report import Report
from bitfold.runtime.errors import OutputError

JSON, HTML = "report.json", "report.html"


def checked_folder(report: str | os.PathLike[str]) -> Path:
    """The folder for the report; `write_report` makes it, so that no empty one is left behind.

    Raises:
        OutputError: it cannot be made, or nothing can be written into it.
    """
    folder = Path(report)
    # Links that lead nowhere are in the way too, so they must not be passed over.
    there = next(each for each in (folder, *folder.parents) if os.path.lexists(each))
    try:
        with tempfile.TemporaryDirectory(dir=there, prefix=f".{JSON}."):
            return folder
    except OSError as error:
        raise OutputError(
            f"cannot make the report's folder {folder}: {error.strerror or error}",
            "choose another folder",
        ) from error


def write_report(report: Report, folder: Path, conversion: Conversion) -> None:
    """Write both files, each whole or not at all; an earlier report is replaced.

    Raises:
        OutputError: the folder cannot be made or written.
    """
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        _write(report, folder, conversion)
    except BaseException:
        with suppress(OSError):  # one that is not there, or not empty
            for each in made:
                each.rmdir()
        raise


def write_page(path: Path, text: str) -> None:
    """Write one page, whole or not at all; an earlier one is replaced.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
            part = Path(scratch) / path.name
            # Names of a model's nodes may hold half a surrogate pair, which UTF-8 cannot.
            part.write_text(text, "utf-8", errors="backslashreplace")
            os.replace(part, path)
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}", "choose another place"
        ) from error


def _write(report: Report, folder: Path, conversion: Conversion) -> None:
    for name, text in (
        (JSON, to_json(report.as_dict()) + "\n"),
        (HTML, page(report, conversion)),
    ):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder, prefix=f".{name}.") as scratch:
                part = Path(scratch) / name
                # Names of a model's nodes may hold half a surrogate pair, which UTF-8 cannot.
                part.write_text(text, "utf-8", errors="backslashreplace")
                os.replace(part, folder / name)
        except OSError as error:
            raise OutputError(
                f"cannot write {folder / name}: {error.strerror or error}",
                "choose another folder",
            ) from error
