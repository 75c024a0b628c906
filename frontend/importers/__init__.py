"""Read a model of any supported format as an `onnx_ir.Model`: one importer a file."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
from onnx import ModelProto

from bitfold.frontend.importers.gguf import MAGIC as GGUF_MAGIC
from bitfold.frontend.importers.gguf import SUFFIXES as GGUF_SUFFIXES
from bitfold.frontend.importers.gguf import import_gguf
from bitfold.frontend.importers.onnx import SUFFIXES as ONNX_SUFFIXES
from bitfold.frontend.importers.onnx import load_model
from bitfold.runtime.errors import ModelError, UnsupportedError, naming

BROKEN = "the file was damaged, or written wrongly: fetch it or export the model again"
"""The hint for a broken file that nothing better is known about."""


@dataclass(frozen=True)
class Importer:
    """One format that models can be read from.

    Attributes:
        name: the format.
        suffixes: the file suffixes it uses, in lower case.
        magic: the bytes that its files start with, or empty where the format has none.
        load: reads a file.
    """

    name: str
    suffixes: tuple[str, ...]
    magic: bytes
    load: Callable[[Path], ir.Model]


IMPORTERS: tuple[Importer, ...] = (
    Importer("onnx", ONNX_SUFFIXES, b"", load_model),
    Importer("gguf", GGUF_SUFFIXES, GGUF_MAGIC, import_gguf),
)


def import_model(source: str | os.PathLike[str] | ModelProto | ir.Model) -> ir.Model:
    """Read a model: an ONNX or GGUF file, an ONNX proto, or a model as it is.

    A file's format is told by its first bytes, then by its suffix.

    Raises:
        ModelError: the source is missing or broken.
        UnsupportedError: no importer knows the format.
    """
    if isinstance(source, (ModelProto, ir.Model)):
        return load_model(source)
    path = Path(source)
    importer = find_importer(path)
    with naming(str(path), BROKEN):
        return importer.load(path)


def find_importer(path: Path) -> Importer:
    """The importer for a file; see `import_model` for the errors."""
    if not path.exists():
        raise ModelError(f"{path}: no such file")
    if path.is_dir():
        raise ModelError(f"{path}: expected a model file, found a folder")
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from error
    for importer in IMPORTERS:
        if importer.magic and head.startswith(importer.magic):
            return importer
    for importer in IMPORTERS:
        if path.suffix.lower() in importer.suffixes:
            return importer
    known = ", ".join(suffix for importer in IMPORTERS for suffix in importer.suffixes)
    raise UnsupportedError(
        f"{path}: no importer for files ending in {path.suffix or '(nothing)'}",
        hint=f"known: {known}; export the model to ONNX first",
    )
