"""Build a catalogue model as ONNX in the cache."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir

from bitfold.frontend.emit import write_model
from bitfold.frontend.importers import IMPORTERS
from bitfold.frontend.importers.tokenizer import export_tokenizer
from bitfold.models.cache import VARIABLE, cache_folder
from bitfold.models.catalogue import Progress, fetch_entry, find_entry
from bitfold.models.entry import ENTRY_KEY, TASK_KEY, ModelEntry
from bitfold.runtime.errors import OutputError, UnsupportedError

VERSION = 2
"""Raise this when an importer's output changes: cached models are then built again."""


def build(name: str, progress: Progress = lambda text, fraction: None) -> Path:
    """The path of a catalogue model as `model.onnx`, fetched and built if need be.

    Beside it lie its weights and what else the model needs, such as its tokenizer's JSON files. Its
    metadata names the catalogue's entry and the task that measures it, and conversion keeps them.
    The folder appears whole or not at all.

    Args:
        name: the model's name in the catalogue.
        progress: called with a text and the share that is done, 0…1.

    Raises:
        UnsupportedError: the catalogue has no model of that name.
        BitfoldError: fetching, reading or writing failed; see `fetch` and the importers.
    """
    entry = find_entry(name)
    if not isinstance(entry, ModelEntry):
        raise UnsupportedError(f"{name} is a data set, not a model", hint="fetch it instead")
    return build_entry(entry, progress)


def build_entry(entry: ModelEntry, progress: Progress = lambda text, fraction: None) -> Path:
    """Like `build`, for an entry that need not be in the catalogue."""
    folder = cache_folder() / "models" / f"{entry.name}-{_key(entry)}"
    target = folder / "model.onnx"
    if target.is_file():
        return target
    load = _loader(entry)
    source = fetch_entry(entry, progress)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".part-") as scratch:
            part = Path(scratch) / "built"
            part.mkdir()
            progress(f"importing {entry.file_name}", 0.0)
            model = load(source)
            model.metadata_props.update({ENTRY_KEY: entry.name, TASK_KEY: entry.task})
            write_model(model, part / "model.onnx", progress=progress)
            if entry.importer == "gguf":
                export_tokenizer(source, part)
            if entry.sidecars is not None:
                entry.sidecars(source, part)
            _publish(part, folder)
    except OSError as error:
        raise OutputError(
            f"the cache {folder.parent} cannot be written ({error.strerror or error})",
            hint=f"set {VARIABLE} to a folder with enough space",
        ) from error
    return target


def _loader(entry: ModelEntry) -> Callable[[Path], ir.Model]:
    if entry.build is not None:
        return entry.build
    for importer in IMPORTERS:
        if importer.name == entry.importer:
            return importer.load
    raise UnsupportedError(f"{entry.name}: there is no importer {entry.importer!r}")


def _key(entry: ModelEntry) -> str:
    """What the built model depends on, as a short name: the source files and their reader."""
    files = " ".join(member.sha256 for member in entry.members)
    text = f"{files} {entry.importer} {entry.revision} {VERSION}"
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _publish(part: Path, folder: Path) -> None:
    """Move a complete build into its place; another process's equal build may be there first."""
    if folder.is_dir() and not (folder / "model.onnx").is_file():
        shutil.rmtree(folder)
    try:
        os.rename(part, folder)
    except OSError:
        if not (folder / "model.onnx").is_file():
            raise
