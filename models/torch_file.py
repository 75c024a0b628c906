"""Read the tensors of a PyTorch checkpoint (`.pth`, `.pt`) without PyTorch, and safely.

Both formats are read: the zip archive that `torch.save` writes since 1.6 (`data.pkl` and one
stored member a storage), and the older one (pickles one after another, then the storages' bytes;
`torch/serialization.py`). The pickle is read as inert data, so that a hostile file runs nothing;
the bytes stay memory-mapped.
"""

from __future__ import annotations

import io
import math
import mmap
import os
import sys
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from bitfold.models.torch_pickle import Call, Global, Persistent, read_pickle
from bitfold.runtime.errors import ModelError, UnsupportedError

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_DEPTH = 16
_LOCAL_HEADER = 30

_TYPES: dict[str, Any] = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


@dataclass(frozen=True)
class _Storage:
    """Where the elements of a tensor lie: `count` of them from byte `start` of the file."""

    dtype: np.dtype[Any]
    start: int
    count: int


def read_torch_file(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint by name, as views of the file.

    Args:
        path: a file that holds a dictionary of tensors; nested dictionaries give names joined
            with dots, and what is no tensor is left out.

    Raises:
        ModelError: the file is missing, broken, or its tensors do not lie in their storages.
        UnsupportedError: it needs more than tensors to be read (a whole pickled module, say).
    """
    try:
        with path.open("rb") as file:
            head = file.read(4)
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # mmap: ValueError for an empty file
        raise ModelError(f"{path}: cannot be read ({error})") from error
    try:
        read = _read_zip if head == b"PK\x03\x04" else _read_legacy
        checkpoint, storages = read(data)
        if not isinstance(checkpoint, dict):
            raise UnsupportedError(
                f"expected a dictionary of tensors, found {_kind(checkpoint)}",
                hint="save model.state_dict() instead of the model",
            )
        return dict(_tensors(checkpoint, storages, data))
    except (ModelError, UnsupportedError) as error:
        raise type(error)(f"{path}: {error}", error.hint) from error


def _read_legacy(data: mmap.mmap) -> tuple[Any, dict[str, _Storage]]:
    file = _Reader(data)
    if read_pickle(file) != _MAGIC or read_pickle(file) != _PROTOCOL:
        raise ModelError("expected a PyTorch checkpoint, found something else")
    system = read_pickle(file)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise UnsupportedError("the checkpoint was written on a big-endian machine")
    checkpoint = read_pickle(file)
    wanted = {key: dtype for key, dtype, _ in _storage_ids(checkpoint)}
    keys = read_pickle(file)
    if not isinstance(keys, list):
        raise ModelError(f"expected a list of storages, found {_kind(keys)}")
    position = data.tell()
    storages = {}
    for key in keys:
        if not isinstance(key, str) or key not in wanted or key in storages:
            raise ModelError("the list of storages does not fit the tensors")
        count = int.from_bytes(data[position : position + 8], "little")
        storages[key] = _storage(wanted[key], position + 8, count, data)
        position += 8 + count * wanted[key].itemsize
    return checkpoint, storages


def _read_zip(data: mmap.mmap) -> tuple[Any, dict[str, _Storage]]:
    try:
        with zipfile.ZipFile(_Reader(data)) as archive:
            members = {info.filename: info for info in archive.infolist()}
            pickles = [name for name in members if name.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise ModelError(f"expected one data.pkl in the archive, found {len(pickles)}")
            folder = pickles[0].removesuffix("data.pkl")
            start, size = _stored(members[pickles[0]], data)
            order = members.get(f"{folder}byteorder")
            if order is not None:
                at, length = _stored(order, data)
                if data[at : at + length] != b"little":
                    raise UnsupportedError("the checkpoint was written on a big-endian machine")
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
        raise ModelError(f"the archive is broken ({error})") from error
    data.seek(start)
    checkpoint = read_pickle(_Reader(data))
    if data.tell() > start + size:
        raise ModelError("data.pkl does not end where the archive says")
    storages = {}
    for key, dtype, count in _storage_ids(checkpoint):
        member = members.get(f"{folder}data/{key}")
        if member is None:
            raise ModelError(f"the archive has no storage {key}")
        at, length = _stored(member, data)
        if count * dtype.itemsize > length:
            raise ModelError(f"storage {key}: expected {count} elements, found {length} bytes")
        storages[key] = _storage(dtype, at, count, data)
    return checkpoint, storages


class _Reader(io.RawIOBase):
    """A map as a file, from where the map stands; closing it leaves the map open."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        # Not by way of readinto: the base class would first make room for all that a file claims.
        return self._data.read(size)

    def readline(self, size: int | None = -1) -> bytes:
        return self._data.readline()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._data.tell(), os.SEEK_END: len(self._data)}
        self._data.seek(base[whence] + offset)
        return self._data.tell()

    def tell(self) -> int:
        return self._data.tell()


def _stored(member: zipfile.ZipInfo, data: mmap.mmap) -> tuple[int, int]:
    """Where the bytes of an uncompressed member start, and how many they are."""
    if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
        raise UnsupportedError(f"{member.filename} is compressed: PyTorch stores it as it is")
    header = data[member.header_offset : member.header_offset + _LOCAL_HEADER]
    names = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    start = member.header_offset + _LOCAL_HEADER + names
    if start + member.file_size > len(data):
        raise ModelError(f"{member.filename} lies outside the file")
    return start, member.file_size


def _storage(dtype: np.dtype[Any], start: int, count: int, data: mmap.mmap) -> _Storage:
    if count < 0 or start + count * dtype.itemsize > len(data):
        raise ModelError(
            f"a storage of {count} elements lies outside the file",
            hint="the file may be cut short: fetch it again",
        )
    return _Storage(dtype, start, count)


def _storage_ids(checkpoint: Any) -> Iterator[tuple[str, np.dtype[Any], int]]:
    """Key, type and number of elements of each storage that the tensors name."""
    if not isinstance(checkpoint, dict):
        return
    for _, call in _calls(checkpoint):
        yield _storage_id(call.arguments)


def _calls(tensors: Mapping[Any, Any], prefix: str = "", depth: int = 0) -> Iterator[Any]:
    """Name and rebuilding call of every tensor in a dictionary of dictionaries."""
    if depth > _DEPTH:
        raise ModelError(f"the checkpoint nests dictionaries more than {_DEPTH} deep")
    for key, value in tensors.items():
        name = f"{prefix}{key}"
        if isinstance(value, Call) and value.function == _PARAMETER and value.arguments:
            value = value.arguments[0]
        if isinstance(value, dict):
            yield from _calls(value, f"{name}.", depth + 1)
        elif isinstance(value, Call):
            if value.function != _TENSOR:
                raise UnsupportedError(f"{name}: needs {value.function}, expected a tensor")
            yield name, value


_TENSOR = Global("torch._utils", "_rebuild_tensor_v2")
_PARAMETER = Global("torch._utils", "_rebuild_parameter")


def _storage_id(arguments: tuple[Any, ...]) -> tuple[str, np.dtype[Any], int]:
    """From the first argument of a tensor: a persistent ("storage", type, key, device, count)."""
    found = arguments[0].id if arguments and isinstance(arguments[0], Persistent) else ()
    if not isinstance(found, tuple) or len(found) not in (5, 6) or found[0] != "storage":
        raise ModelError("a tensor has no storage")
    _, kind, key, _, count = found[:5]
    if len(found) == 6 and found[5] is not None:
        raise UnsupportedError("the checkpoint holds views of storages")
    name = kind.name if isinstance(kind, Global) and kind.module == "torch" else ""
    if name not in _TYPES:
        raise UnsupportedError(f"the checkpoint has a storage of type {_kind(kind)}")
    if not isinstance(key, str) or not isinstance(count, int):
        raise ModelError("a storage has no name or no size")
    return key, np.dtype(_TYPES[name]), count


def _tensors(
    checkpoint: Mapping[Any, Any], storages: Mapping[str, _Storage], data: mmap.mmap
) -> Iterator[tuple[str, np.ndarray]]:
    if sys.byteorder != "little":
        raise UnsupportedError("checkpoints are read on little-endian machines only")
    for name, call in _calls(checkpoint):
        key, dtype, _ = _storage_id(call.arguments)
        storage = storages.get(key)
        if storage is None or storage.dtype != dtype:
            raise ModelError(f"tensor {name} has no storage {key} of type {dtype}")
        if len(call.arguments) < 4:
            raise ModelError(f"tensor {name} has no shape")
        offset, shape, strides = call.arguments[1:4]
        whole = [offset, *_integers(shape), *_integers(strides)]
        if len(shape) != len(strides) or not all(isinstance(n, int) and n >= 0 for n in whole):
            raise ModelError(f"tensor {name} has no usable shape")
        count = math.prod(shape)
        last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
        if count and (last >= storage.count or count > storage.count):
            raise ModelError(f"tensor {name}: its {count} elements do not lie in their storage")
        start = storage.start + offset * dtype.itemsize if count else 0
        steps = [step * dtype.itemsize for step in strides] if count else None
        yield name, np.ndarray(tuple(shape), dtype, buffer=data, offset=start, strides=steps)


def _integers(sequence: Any) -> tuple[Any, ...]:
    if not isinstance(sequence, tuple) or len(sequence) > 64:
        raise ModelError("a tensor's shape is no tuple of numbers")
    return sequence


def _kind(item: Any) -> str:
    return str(item) if isinstance(item, Global) else type(item).__name__
