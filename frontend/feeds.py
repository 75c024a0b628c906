"""Inputs for a model from files: arrays in an ``.npz``, or a text for a language model."""

from __future__ import annotations

import os
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import onnx_ir as ir

from bitfold.frontend.convert import write_sidecars
from bitfold.frontend.importers import import_model
from bitfold.frontend.text_tokenizer import TextTokenizer
from bitfold.passes.core.context import Feeds
from bitfold.runtime.errors import CalibrationError

CHUNK = 512
"""Tokens of one set of inputs that is cut from a text."""
CHUNKS = 32
"""Sets of inputs that are cut from a text, at most."""

_TEXT_INPUTS = {"input_ids", "attention_mask", "position_ids", "token_type_ids"}


def load_feeds(file: str | os.PathLike[str], model: str | os.PathLike[str]) -> list[Feeds]:
    """The sets of inputs in a file.

    Args:
        file: an ``.npz`` with an array for each input: one set.  Any other file is UTF-8 text
            for a language model, cut into pieces of `CHUNK` tokens: a set each, at most
            `CHUNKS`.
        model: the model file that they are for; its tokenizer lies beside it or in it.

    Raises:
        CalibrationError: the file cannot be read, or the model takes no text.
        ModelError: a text was given but the model has no tokenizer.
    """
    path = Path(file)
    return [read_npz(path)] if path.suffix == ".npz" else _text_feeds(path, Path(model))


def read_npz(path: Path) -> Feeds:
    """The arrays of an ``.npz`` file by name."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except OSError as error:
        raise CalibrationError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, zipfile.BadZipFile, AttributeError, TypeError) as error:
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
    inputs = {value.name or "": value for value in import_model(model).graph.inputs}
    caches = {name for name in inputs if name.startswith("past_key_values.")}
    if "input_ids" not in inputs or not inputs.keys() <= _TEXT_INPUTS | caches:
        raise CalibrationError(
            f"{model} does not read text: its inputs are {', '.join(sorted(inputs))}",
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
    return [
        {name: _text_input(value, chunk) for name, value in inputs.items()}
        for chunk in chunks[:CHUNKS]
    ]


def _text_input(value: ir.Value, ids: list[int]) -> np.ndarray:
    """One input of a model that reads the text ``ids`` from an empty cache."""
    dtype = (value.dtype or ir.DataType.INT64).numpy()
    rows = {
        "input_ids": ids,
        "attention_mask": [1] * len(ids),
        "position_ids": range(len(ids)),
        "token_type_ids": [0] * len(ids),
    }
    if value.name in rows:
        return np.array([rows[value.name]], dtype)
    shape = [dim if isinstance(dim, int) else 0 for dim in value.shape or ()]
    return np.zeros([1, *shape[1:]], dtype)
