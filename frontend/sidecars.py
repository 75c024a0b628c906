"""The small files beside a language model: its tokenizer and its generation settings."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from bitfold.frontend.importers import find_importer
from bitfold.frontend.importers.tokenizer import (
    GENERATION_CONFIG,
    TOKENIZER,
    TOKENIZER_CONFIG,
    export_tokenizer,
)
from bitfold.runtime.errors import ModelError, OutputError

NAMES = (TOKENIZER, TOKENIZER_CONFIG, GENERATION_CONFIG)


def read_sidecars(source: Path) -> dict[str, bytes]:
    """Name to content of a model's sidecars: those beside it, or those made from a GGUF file.

    Raises:
        ModelError: one cannot be read.
        UnsupportedError: a GGUF file's tokenizer is of an unknown kind.
    """
    if find_importer(source).name == "gguf":
        with tempfile.TemporaryDirectory(prefix="bitfold-") as folder:
            return {path.name: path.read_bytes() for path in export_tokenizer(source, Path(folder))}
    paths = [source.parent / name for name in NAMES]
    try:
        return {path.name: path.read_bytes() for path in paths if path.is_file()}
    except OSError as error:
        raise ModelError(f"{error.filename}: cannot be read ({error.strerror})") from error


def check_sidecars(sidecars: dict[str, bytes], folder: Path, force: bool) -> None:
    """Raise an OutputError if ``folder`` has other files in the sidecars' places.

    They belong to another model, which would read text with the wrong tokenizer.
    """
    for name in [] if force else _differing(sidecars, folder):
        raise OutputError(
            f"{folder / name} exists and is another model's",
            "choose another folder: with this tokenizer in its place the other model would misread",
        )


def put_sidecars(sidecars: dict[str, bytes], folder: Path) -> None:
    """Write sidecars into ``folder``; each is replaced as a whole, and equal ones stay.

    Raises:
        OutputError: the folder cannot be written.
    """
    for name in _differing(sidecars, folder, absent=True):
        part = folder / f".{name}.{os.getpid()}.part"
        try:
            part.write_bytes(sidecars[name])
            os.replace(part, folder / name)
        except OSError as error:
            raise OutputError(
                f"cannot write {folder / name}: {error.strerror or error}",
                "free space or choose another folder",
            ) from error
        finally:
            part.unlink(missing_ok=True)


def write_sidecars(source: Path, folder: Path) -> None:
    """Put a model's sidecars into ``folder``, over others that are there."""
    put_sidecars(read_sidecars(source), folder)


def _differing(sidecars: dict[str, bytes], folder: Path, absent: bool = False) -> list[str]:
    """Names of sidecars that ``folder`` has otherwise, and with ``absent`` those it lacks."""
    try:
        return [
            name
            for name, content in sidecars.items()
            if ((folder / name).exists() or absent)
            and not ((folder / name).is_file() and (folder / name).read_bytes() == content)
        ]
    except OSError as error:
        raise OutputError(f"{error.filename}: cannot be read ({error.strerror})") from error
