"""Arrays that wait on disk instead of in memory."""

from __future__ import annotations

import mmap
import tempfile
from pathlib import Path
from typing import IO, Any

import numpy as np
import onnx_ir as ir

from bitfold.runtime.errors import OutputError

SPOOL_THRESHOLD = 1 << 16
"""Arrays of at least this many bytes go to disk instead of memory."""

FILE_SIZE = 1 << 26
"""Bytes of a file that holds several arrays: each file that is mapped takes up a descriptor."""

ALIGNMENT = 64
"""Arrays start at multiples of this many bytes."""


class Spool:
    """Holds arrays in temporary files, mapped into memory.

    Args:
        folder: where the files are, by names that others may open; else they have none, and each
            vanishes with the last array that sees it.
        least: bytes of an array from which it goes to disk; :data:`SPOOL_THRESHOLD` by default.
    """

    def __init__(self, folder: Path | None = None, least: int | None = None) -> None:
        self._folder = folder
        self._least = SPOOL_THRESHOLD if least is None else least
        self._files = 0
        self._file: IO[bytes] | None = None
        self._map = np.empty(0, np.uint8)
        self._used = 0

    def hold(self, array: np.ndarray, name: str, copy: bool = False) -> np.ndarray:
        """The same numbers, mapped from a file if they are many.

        Args:
            name: what to call it where the disk is full.
            copy: whether few numbers are copied; otherwise they stay where they are.

        Raises:
            OutputError: the disk is full.
        """
        if array.nbytes < self._least:
            return array.copy() if copy else array
        array = np.ascontiguousarray(array)
        try:
            start = self._room(array.nbytes)
            assert self._file is not None, "there is room now"
            self._file.seek(start)
            # ``tofile`` tells no cause when the disk is full.
            self._file.write(array.reshape(-1).view(np.uint8).data)
            self._file.flush()
        except OSError as error:
            raise OutputError(
                f"the temporary folder {tempfile.gettempdir()} cannot hold {name!r} of "
                f"{array.nbytes >> 20} MiB: {error.strerror or error}",
                "free space, or set TMPDIR to a folder with enough of it",
            ) from error
        self._used = start + array.nbytes
        held: np.ndarray = self._map[start : self._used].view(array.dtype).reshape(array.shape)
        return held

    def _room(self, nbytes: int) -> int:
        """Where in the file, which may be a new one, so many bytes are free."""
        start = -(-self._used // ALIGNMENT) * ALIGNMENT
        if start + nbytes > len(self._map):
            self.close()
            size, start = max(FILE_SIZE, nbytes), 0
            named: Any
            if self._folder is None:
                named = self._file = tempfile.TemporaryFile(prefix="bitfold-")  # noqa: SIM115
            else:
                named = self._folder / f"{self._files}.bin"
                self._file = named.open("wb")
            self._files += 1
            self._file.truncate(size)
            # What is written later is seen by those who have mapped the file before.
            self._map = np.memmap(named, dtype=np.uint8, mode="r", shape=(size,))
        return start

    def close(self) -> None:
        """Write no more; arrays stay readable."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._map, self._used = np.empty(0, np.uint8), 0


def let_go(tensor: ir.TensorProtocol | None) -> None:
    """Let the system have the memory that a tensor's file was read into; it is read again later."""
    mapping = None
    if isinstance(tensor, ir.ExternalTensor):
        mapping = tensor.raw
    elif isinstance(tensor, ir.Tensor) and isinstance(tensor.raw, np.memmap):
        owner: Any = tensor.raw
        while isinstance(owner, np.ndarray):
            owner = owner.base
        mapping = owner
    if isinstance(mapping, mmap.mmap) and hasattr(mapping, "madvise"):
        mapping.madvise(mmap.MADV_DONTNEED)


def let_go_of_all(model: ir.Model) -> None:
    """As :func:`let_go`, of all weights of a model."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            let_go(value.const_value)
