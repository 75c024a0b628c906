"""The facts around an ONNX file's graph, read without reading the graph.

``ModelProto`` (onnx.proto) is a run of protobuf fields; the graph is one of them and is skipped,
so that this costs microseconds however large the file is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from bitfold.runtime.errors import ModelError

_GRAPH, _OPSET_IMPORT, _METADATA = 7, 8, 14
"""Field numbers of ModelProto."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
"""Protobuf's wire types."""


@dataclass(frozen=True)
class ModelHeader:
    """What a model file says about itself.

    Attributes:
        opsets: operator domain (the default one is ``""``) to version.
        metadata: the model's metadata properties.
    """

    opsets: dict[str, int]
    metadata: dict[str, str]


def read_header(path: str | os.PathLike[str]) -> ModelHeader:
    """Read the header of the ONNX file at ``path``.

    Raises:
        ModelError: there is no such file, or it is no ONNX model.
    """
    path = Path(path)
    opsets: dict[str, int] = {}
    metadata: dict[str, str] = {}
    has_graph = False
    try:
        with path.open("rb") as file:
            end = os.fstat(file.fileno()).st_size
            for number, value in _fields(file, end, skip=_GRAPH):
                has_graph |= number == _GRAPH
                if number == _OPSET_IMPORT and isinstance(value, bytes):
                    entry = _message(value)
                    version = entry.get(2, 0)
                    opsets[_text(entry.get(1, b""))] = version if isinstance(version, int) else 0
                elif number == _METADATA and isinstance(value, bytes):
                    entry = _message(value)
                    metadata[_text(entry.get(1, b""))] = _text(entry.get(2, b""))
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise ModelError(f"{path} is a folder, expected an ONNX file") from None
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, EOFError) as error:
        raise ModelError(f"{path} is no ONNX model: {error}") from error
    if not has_graph:
        raise ModelError(f"{path} is no ONNX model: expected a graph, found none")
    return ModelHeader(opsets, metadata)


def _fields(file: BinaryIO, end: int, skip: int = -1) -> Iterator[tuple[int, int | bytes]]:
    """Field numbers and values up to ``end``; those numbered ``skip`` come as ``b""``, unread."""
    while file.tell() < end:
        tag = _varint(file)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            yield number, _varint(file)
        elif wire in (_FIXED64, _FIXED32):
            yield number, file.read(8 if wire == _FIXED64 else 4)
        elif wire == _BYTES:
            length = _varint(file)
            if length > end - file.tell():
                raise EOFError(f"field {number} is cut short")
            if number == skip:
                file.seek(length, os.SEEK_CUR)
                yield number, b""
            else:
                yield number, file.read(length)
        else:
            raise ValueError(f"wire type {wire} at byte {file.tell()}")


def _message(data: bytes) -> dict[int, int | bytes]:
    return dict(_fields(BytesIO(data), len(data)))


def _text(value: int | bytes) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else ""


def _varint(file: BinaryIO) -> int:
    result = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise EOFError("the file is cut short")
        result |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return result
    raise ValueError("a number of more than ten bytes")
