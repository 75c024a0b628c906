"""Inputs for a model from files: arrays in an ``.npz``, or a text for a language model."""

from __future__ import annotations

import os
import tempfile
import zipfile
import zlib
from pathlib import Path

import numpy as np

from bitfold.frontend.importers import import_model
from bitfold.frontend.sidecars import write_sidecars
from bitfold.frontend.text_samples import causal_feeds, reads_text
from bitfold.frontend.text_tokenizer import TextTokenizer
from bitfold.passes.core.context import Feeds
from bitfold.runtime.errors import CalibrationError

CHUNK = 512
"""Tokens of one set of inputs that is cut from a text."""
CHUNKS = 32
"""Sets of inputs that are cut from a text, at most."""


def load_feeds(file: str | os.PathLike[str], model: str | os.PathLike[str]) -> list[Feeds]:
    """The sets of inputs in a file.

    Args:
        file: an ``.npz`` with an array for each input: one set; a folder of such files, a set
            each, in the order of their names.  Any other file is UTF-8 text for a language model,
            cut into pieces of `CHUNK` tokens: a set each, at most `CHUNKS`.
        model: the model file that they are for; its tokenizer lies beside it or in it.

    Raises:
        CalibrationError: the file cannot be read, or the model takes no text.
        ModelError: a text was given but the model has no tokenizer.
    """
    path = Path(file)
    if path.is_dir():
        files = sorted(path.glob("*.npz"))
        if not files:
            raise CalibrationError(f"{path}: expected a folder of .npz files, found none in it")
        return [read_npz(each) for each in files]
    return [read_npz(path)] if path.suffix == ".npz" else _text_feeds(path, Path(model))


def read_npz(path: Path) -> Feeds:
    """The arrays of an ``.npz`` file by name."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except OSError as error:
        raise CalibrationError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (
        ValueError,
        EOFError,
        zipfile.BadZipFile,
        zlib.error,
        AttributeError,
        TypeError,
    ) as error:
        raise CalibrationError(
            f"{path} is no .npz file of plain arrays ({error})",
            "write one with numpy.savez(file, input_name=array, …)",
        ) from error


def read_text(path: Path) -> str:
    """A UTF-8 text file."""
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise CalibrationError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise CalibrationError(
            f"{path}: expected UTF-8 text, found the byte {error.object[error.start]:#04x}",
            "arrays are read from files that end in .npz",
        ) from error


def _text_feeds(path: Path, model: Path) -> list[Feeds]:
    text = read_text(path)
    loaded = import_model(model)
    if not reads_text(loaded):
        names = sorted(value.name or "" for value in loaded.graph.inputs)
        raise CalibrationError(
            f"{model} does not read text: its inputs are {', '.join(names)}",
            "give the inputs as arrays in an .npz file",
        )
    with tempfile.TemporaryDirectory(prefix="bitfold-") as folder:
        write_sidecars(model, Path(folder))
        ids = TextTokenizer(folder).encode(text)
    if not ids:
        raise CalibrationError(f"{path} holds no text")
    chunks = [ids[start : start + CHUNK] for start in range(0, len(ids), CHUNK)]
    if len(chunks) > 1 and len(chunks[-1]) < CHUNK:
        chunks.pop()
    return [causal_feeds(loaded, np.array([chunk]), {}) for chunk in chunks[:CHUNKS]]
