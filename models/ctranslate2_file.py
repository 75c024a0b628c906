"""Read the `model.bin` of a CTranslate2 model, one weight at a time.

The layout (little-endian, version 6; CTranslate2's `model_spec.py` writes it): the version u32; a
string with the specification's name, and its revision u32; the number of variables u32, and for
each its name, rank u8, sizes u32[rank], type u8, byte count u32 and bytes; the number of aliases
u32, and for each its name and the variable it stands for. A string is its length u16 and that many
bytes, of which the last is 0.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from bitfold.runtime.errors import ModelError, UnsupportedError

VERSIONS = (6,)
"""The layout's versions that are read."""

_TYPES: dict[int, np.dtype[Any]] = {
    0: np.dtype("<f4"),
    1: np.dtype("i1"),
    2: np.dtype("<i2"),
    3: np.dtype("<i4"),
    4: np.dtype("<f2"),
}
_MAX_RANK = 8


@dataclass(frozen=True)
class _Variable:
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int


class CTranslate2File:
    """The variables of one file, which stays memory-mapped.

    Attributes:
        spec: the name of the model's specification, such as `WhisperSpec`.

    Args:
        path: the file.

    Raises:
        ModelError: the file is missing, truncated, or not in this layout.
        UnsupportedError: another version of the layout, or an unknown type.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:  # an empty file cannot be mapped
            raise ModelError(f"{path}: cannot be read ({error})") from error
        self._at = 0
        version = self._number("I", "the version")
        if version not in VERSIONS:
            raise UnsupportedError(
                f"{path}: expected version {VERSIONS[0]} of CTranslate2's layout, found {version}"
            )
        self.spec = self._string("the specification's name")
        self._number("I", "the revision")
        self._variables: dict[str, _Variable] = {}
        for _ in range(self._number("I", "the number of variables")):
            self._read_variable()
        for _ in range(self._number("I", "the number of aliases")):
            alias, target = self._string("an alias"), self._string("an alias's variable")
            if target not in self._variables:
                raise ModelError(f"{path}: alias {alias} stands for {target}, which is missing")
            self._variables[alias] = self._variables[target]
        if self._at != len(self._bytes):
            raise ModelError(f"{path}: {len(self._bytes) - self._at} bytes follow the last alias")

    @property
    def names(self) -> list[str]:
        """The names of all variables and aliases."""
        return list(self._variables)

    def shape(self, name: str) -> tuple[int, ...]:
        """A variable's shape.

        Raises:
            KeyError: there is none of that name.
        """
        return self._variables[name].shape

    def values(self, name: str) -> np.ndarray:
        """A variable's values in the file's type: a read-only view of the file.

        Raises:
            KeyError: there is none of that name.
        """
        found = self._variables[name]
        count = math.prod(found.shape)
        flat = np.frombuffer(self._bytes, found.dtype, count, found.offset)
        return flat.reshape(found.shape)

    def weight(self, name: str, rows: slice = slice(None)) -> ir.TensorProtocol:
        """Rows of a float variable as f32; the values are read at each call of its `numpy`.

        Raises:
            KeyError: there is no variable of that name.
            UnsupportedError: it is no float.
        """
        view = self.values(name)[rows]
        if view.dtype.kind != "f":
            raise UnsupportedError(
                f"{self.path}: expected floats in {name}, found {view.dtype}",
                "convert the model to CTranslate2 without quantizing it",
            )

        def read() -> ir.TensorProtocol:
            return ir.tensor(np.ascontiguousarray(view, np.float32), name=name)

        return ir.LazyTensor(read, dtype=ir.DataType.FLOAT, shape=ir.Shape(view.shape), name=name)

    def _read_variable(self) -> None:
        name = self._string("a variable's name")
        rank = self._number("B", f"the rank of {name}")
        if rank > _MAX_RANK:
            raise ModelError(
                f"{self.path}: expected a rank up to {_MAX_RANK}, found {rank}: {name}"
            )
        shape = tuple(self._number("I", f"the shape of {name}") for _ in range(rank))
        kind = self._number("B", f"the type of {name}")
        if kind not in _TYPES:
            raise UnsupportedError(f"{self.path}: variable {name} has the unknown type {kind}")
        size = self._number("I", f"the size of {name}")
        expected = math.prod(shape) * _TYPES[kind].itemsize
        if size != expected:
            raise ModelError(
                f"{self.path}: variable {name} of shape {list(shape)}: expected {expected} bytes, "
                f"found {size}"
            )
        self._variables[name] = _Variable(_TYPES[kind], shape, self._at)
        self._take(size, f"the values of {name}")

    def _string(self, what: str) -> str:
        raw = self._bytes[self._take(self._number("H", what), what) : self._at]
        try:
            return raw.rstrip(b"\0").decode("utf-8")
        except UnicodeDecodeError:
            raise ModelError(f"{self.path}: {what} is no text: {raw[:16]!r}") from None

    def _number(self, code: str, what: str) -> int:
        start = self._take(struct.calcsize(code), what)
        return int(struct.unpack_from(f"<{code}", self._bytes, start)[0])

    def _take(self, size: int, what: str) -> int:
        """Move on by ``size`` bytes; returns where they start."""
        start = self._at
        if start + size > len(self._bytes):
            raise ModelError(f"{self.path}: truncated or no CTranslate2 model: it ends in {what}")
        self._at = start + size
        return start
