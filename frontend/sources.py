"""What a user may call a model: a file, or a name from the catalogue."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bitfold.runtime.errors import ModelError, OutputError

TRAINED = "trained"
"""The name of the small trained model that comes with bitfold."""

Progress = Callable[[str, float], None]


def _silent(text: str, fraction: float) -> None:
    pass


def find_model(name: str | os.PathLike[str], progress: Progress = _silent) -> Path:
    """The file of a model that is given by path, or by name: fetched and built if need be.

    Raises:
        ModelError: there is neither such a file nor such a name.
        BitfoldError: the model could not be fetched or built.
    """
    path = Path(name)
    if path.exists():
        return path
    text = os.fspath(name)
    if text == TRAINED:
        return build_trained(progress)
    from bitfold.models.catalogue import MODELS

    names = [entry.name for entry in MODELS]
    if text in names:
        from bitfold.frontend.importers.build import build

        return build(text, progress)
    raise ModelError(
        f"{text}: no such file, and no model of the catalogue",
        f"the catalogue has {', '.join([*names, TRAINED])}",
    )


def build_trained(progress: Progress = _silent) -> Path:
    """The small trained model as `model.onnx` in the cache, its tokenizer beside it.

    Raises:
        UnsupportedError: the packages that read it are missing.
        OutputError: the cache cannot be written.
    """
    from bitfold.frontend.emit import write_model
    from bitfold.frontend.importers.build import VERSION
    from bitfold.models import trained
    from bitfold.models.cache import VARIABLE, cache_folder
    from bitfold.models.catalogue import file_sha256

    tokenizer = trained.tokenizer_path()
    key = file_sha256(tokenizer.with_name("model.safetensors"))[:12]
    folder = cache_folder() / "models" / f"{TRAINED}-{key}-{VERSION}"
    target = folder / "model.onnx"
    if target.is_file():
        return target
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".part-") as scratch:
            part = Path(scratch) / "built"
            part.mkdir()
            write_model(trained.load(), part / "model.onnx", progress=progress)
            shutil.copyfile(tokenizer, part / tokenizer.name)
            try:
                os.rename(part, folder)
            except OSError:
                if not target.is_file():  # else another process was first
                    raise
    except OSError as error:
        raise OutputError(
            f"the cache {folder.parent} cannot be written ({error.strerror or error})",
            f"set {VARIABLE} to a folder with enough space",
        ) from error
    return target


@contextmanager
def runnable(name: str | os.PathLike[str], progress: Progress = _silent) -> Iterator[Path]:
    """An ONNX file of the model that ``name`` means; other formats become one for the while."""
    path = find_model(name, progress)
    from bitfold.frontend.importers import find_importer

    importer = find_importer(path)
    if importer.name == "onnx":
        yield path
        return
    from bitfold.frontend.emit import write_model
    from bitfold.frontend.sidecars import write_sidecars

    with tempfile.TemporaryDirectory(prefix="bitfold-") as folder:
        target = Path(folder) / f"{path.stem}.onnx"
        write_model(importer.load(path), target, progress=progress)
        write_sidecars(path, target.parent)
        yield target
