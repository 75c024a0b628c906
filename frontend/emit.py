"""Write a model to disk: whole or not at all, its weights aligned for reading in place."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx_ir as ir

from bitfold.runtime.errors import OutputError

ALIGNMENT = 64
"""Weights start at multiples of this many bytes: a cache line, and a vector register."""
EXTERNAL_FROM = 1024
"""Initializers of at least this many bytes go to the data file."""


def write_model(
    model: ir.Model,
    path: Path,
    *,
    force: bool = False,
    progress: Callable[[str, float], None] = lambda text, fraction: None,
) -> None:
    """Write ``model`` to ``path`` and its weights to ``path`` + ``.data`` beside it.

    Weights are copied one at a time, in graph order, so that memory stays at one weight and the
    same model gives the same bytes.  Both files are written beside their places and renamed
    when they are complete.  ``model`` keeps its own weights.

    Raises:
        OutputError: the file exists and ``force`` is off, or the folder cannot be written.
    """
    check_output(path, force)
    data = path.with_name(path.name + ".data")
    parts = [each.with_name(f".{each.name}.{os.getpid()}.part") for each in (path, data)]
    with cleaned_up(parts, path):
        replaced = _write_data(model, parts[1], data.name, progress)
        try:
            proto = ir.to_proto(model)
        finally:
            for value, tensor in replaced:
                value.const_value = tensor
        parts[0].write_bytes(proto.SerializeToString(deterministic=True))
        if replaced:
            os.replace(parts[1], data)
        else:
            data.unlink(missing_ok=True)
        os.replace(parts[0], path)


def check_output(path: Path, force: bool) -> None:
    """Raise an OutputError early if ``path`` cannot become the output file."""
    if path.is_dir():
        raise OutputError(f"{path} is a folder", "name the file to write, such as model.onnx")
    if path.exists() and not force:
        raise OutputError(f"{path} exists", "pass --force to replace it")
    if not path.parent.is_dir():
        raise OutputError(f"the folder {path.parent} does not exist", "create it first")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"the folder {path.parent} cannot be written", "check its permissions")


@contextmanager
def cleaned_up(parts: list[Path], path: Path) -> Iterator[None]:
    """Remove unfinished files whatever happens, and name the cause when the disk refuses."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}",
            "free space or choose another folder; nothing was left behind",
        ) from error
    finally:
        for part in parts:
            part.unlink(missing_ok=True)


def _write_data(
    model: ir.Model, part: Path, location: str, progress: Callable[[str, float], None]
) -> list[tuple[ir.Value, ir.TensorProtocol]]:
    """Stream the large initializers to ``part``; return what they were before."""
    large = [
        (value, value.const_value)
        for value in model.graph.initializers.values()
        if value.const_value is not None
        and value.const_value.nbytes >= EXTERNAL_FROM
        and value.dtype != ir.DataType.STRING
    ]
    if not large:
        return []
    total = sum(tensor.nbytes for _, tensor in large)
    free = shutil.disk_usage(part.parent).free
    if total > free:
        raise OutputError(
            f"{part.parent} has {free >> 20} MiB free, the weights take {total >> 20} MiB",
            "free space or choose another folder",
        )
    offset = 0
    written: list[ir.TensorProtocol] = []
    with part.open("wb") as file:
        for _, tensor in large:
            start = -(-offset // ALIGNMENT) * ALIGNMENT
            file.write(b"\0" * (start - offset))
            file.write(memoryview(tensor.tobytes()))
            offset = start + tensor.nbytes
            progress("writing weights", offset / total)
            written.append(_external(tensor, location, start))
    for (value, _), tensor in zip(large, written, strict=True):
        value.const_value = tensor
    return large


def _external(tensor: ir.TensorProtocol, location: str, offset: int) -> ir.ExternalTensor:
    return ir.ExternalTensor(
        location,
        offset,
        tensor.nbytes,
        tensor.dtype,
        shape=tensor.shape,  # type: ignore[arg-type]
        name=tensor.name or "",
    )
