"""Write a model to disk: whole or not at all, its weights aligned for reading in place."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx_ir as ir

from bitfold.passes.core.spool import let_go
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
    check: Callable[[Path], None] = lambda written: None,
) -> None:
    """Write ``model`` to ``path`` and its weights to ``path`` + ``.data`` beside it.

    Weights are copied one at a time, in graph order, so that memory stays at one weight and the
    same model gives the same bytes.  Small weights, and those of subgraphs and attributes, are
    embedded, wherever they came from.  Both files are written to a folder beside their place
    and moved when they are complete; old ones are moved away first and come back if that fails,
    so that no model ever stands beside another one's data.  ``model`` keeps its own weights.

    Args:
        check: called with the complete file, under its final name, before it is moved to its
            place; where it raises, nothing is moved.

    Raises:
        OutputError: one of the files exists and ``force`` is off, or the folder cannot be
            written.
    """
    check_output(path, force)
    data = data_path(path)
    with scratch_folder(path) as folder:
        copy = model.clone()  # shares the tensors, and is free to refer to others
        written = _write_data(copy, folder / data.name, progress)
        _embed_rest(copy, written)
        proto = ir.to_proto(copy)
        (folder / path.name).write_bytes(proto.SerializeToString(deterministic=True))
        check(folder / path.name)
        _exchange((path, data), folder)


def _exchange(places: tuple[Path, Path], folder: Path) -> None:
    """Move the new files in ``folder`` to their places; on any failure the old ones come back.

    The model goes first and comes last: where the process is killed between, it is missing
    rather than wrong.
    """
    old = folder / "old"
    old.mkdir()
    new: list[Path] = []
    try:
        for place in places:
            if place.exists():
                os.replace(place, old / place.name)
        for place in reversed(places):
            if (folder / place.name).exists():
                new.append(place)
                os.replace(folder / place.name, place)
    except BaseException:
        for place in new:
            place.unlink(missing_ok=True)
        for place in places:
            if (old / place.name).exists():
                os.replace(old / place.name, place)
        raise


def data_path(path: Path) -> Path:
    """The file for the weights of a model at ``path``."""
    return path.with_name(path.name + ".data")


def check_output(path: Path, force: bool) -> None:
    """Raise an OutputError early if ``path`` and its data cannot become the output files."""
    if path.is_dir():
        raise OutputError(f"{path} is a folder", "name the file to write, such as model.onnx")
    if path.suffix != ".onnx":
        raise OutputError(
            f"{path}: expected a name that ends in .onnx, found {path.suffix or 'no suffix'}",
            "bitfold writes ONNX files, whatever it reads",
        )
    for each in (path, data_path(path)):
        if each.is_dir():
            raise OutputError(f"{each} is a folder", "choose another name, or remove it")
        if each.exists() and not force:
            raise OutputError(f"{each} exists", "pass --force to replace it")
    if not path.parent.is_dir():
        raise OutputError(f"the folder {path.parent} does not exist", "create it first")
    with scratch_folder(path):
        pass  # what the folder refuses it refuses now, not after the work


def check_apart(path: Path, model: ir.Model, source: Path | None) -> None:
    """Raise an OutputError if writing to ``path`` would replace what ``model`` is read from.

    Its weights are read from there while the output is written, and what they lose in the
    conversion no other file has.
    """
    values = (value for graph in model.graphs() for value in graph.initializers.values())
    tensors = [value.const_value for value in values]
    files = {Path(tensor.path) for tensor in tensors if isinstance(tensor, ir.ExternalTensor)}
    files |= {source} if source is not None else set()
    for each in (path, data_path(path)):
        for file in sorted(files):
            if each.exists() and file.exists() and each.samefile(file):
                raise OutputError(
                    f"{each} is the model that is converted, or its weights",
                    "name another output: --force would lose the float model",
                )


@contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """A folder beside ``path`` for unfinished files: it goes whatever happens.

    Raises:
        OutputError: what the disk refused, while the folder was made or used.
    """
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            yield Path(folder)
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}",
            f"{_remedy(error)}; nothing was left behind",
        ) from error


def _remedy(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "free space or choose another folder"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "check the folder's permissions"
    return "choose another folder"


def _write_data(
    model: ir.Model, part: Path, progress: Callable[[str, float], None]
) -> set[ir.Value]:
    """Stream the large initializers to ``part``, refer to it, and return them."""
    large = [
        (value, value.const_value)
        for value in model.graph.initializers.values()
        if value.const_value is not None
        and value.const_value.nbytes >= EXTERNAL_FROM
        and value.const_value.dtype != ir.DataType.STRING
    ]
    if not large:
        return set()
    total = sum(tensor.nbytes for _, tensor in large)
    free = shutil.disk_usage(part.parent).free
    if total > free:
        raise OutputError(
            f"{part.parent.parent} has {free >> 20} MiB free, the weights take {total >> 20} MiB",
            "free space or choose another folder",
        )
    offset = 0
    with part.open("wb") as file:
        for value, tensor in large:
            start = -(-offset // ALIGNMENT) * ALIGNMENT
            file.write(b"\0" * (start - offset))
            file.write(memoryview(tensor.tobytes()))
            let_go(tensor)
            offset = start + tensor.nbytes
            progress("writing weights", offset / total)
            value.const_value = ir.ExternalTensor(
                part.name,
                start,
                tensor.nbytes,
                tensor.dtype,
                shape=tensor.shape,  # type: ignore[arg-type]
                name=tensor.name or "",
                base_dir=part.parent,
            )
    return {value for value, _ in large}


def _embed_rest(model: ir.Model, written: set[ir.Value]) -> None:
    """Embed what still lies in other files: those would not be beside the new one."""
    graphs = [*model.graphs()]
    for function in model.functions.values():
        graphs += [function.graph, *function.subgraphs()]
    for graph in graphs:
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor) and value not in written:
                value.const_value = _embedded(value.const_value)
        for node in graph:
            for name, attribute in list(node.attributes.items()):
                if attribute.is_ref():
                    continue
                if attribute.type == ir.AttributeType.TENSOR:
                    if isinstance(attribute.value, ir.ExternalTensor):
                        node.attributes[name] = ir.AttrTensor(name, _embedded(attribute.value))
                elif attribute.type == ir.AttributeType.TENSORS:
                    tensors = [_embedded(tensor) for tensor in attribute.as_tensors()]
                    node.attributes[name] = ir.AttrTensors(name, tensors)


def _embedded(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    if not isinstance(tensor, ir.ExternalTensor):
        return tensor
    return ir.Tensor(
        tensor.numpy(),
        dtype=tensor.dtype,
        shape=tensor.shape,
        name=tensor.name,
        doc_string=tensor.doc_string,
    )
