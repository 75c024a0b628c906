"""Write a report into its folder: `report.json` for programs, `report.html` for people."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from bitfold.frontend.plain import to_json
from bitfold.frontend.report.html import Conversion, page
from bitfold.passes.core.report import Report
from bitfold.runtime.errors import OutputError

JSON, HTML = "report.json", "report.html"


def prepared_folder(report: str | os.PathLike[str]) -> Path:
    """The folder for the report, made if it is not there.

    Raises:
        OutputError: it cannot be made.
    """
    folder = Path(report)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the report's folder {folder}: {error.strerror}") from error
    return folder


def write_report(report: Report, folder: Path, conversion: Conversion) -> None:
    """Write both files, each whole or not at all; an earlier report is replaced.

    Raises:
        OutputError: the folder cannot be written.
    """
    for name, text in (
        (JSON, to_json(report.as_dict()) + "\n"),
        (HTML, page(report, conversion)),
    ):
        try:
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
