"""Arrays that wait on disk instead of in memory."""

from __future__ import annotations

import tempfile

import numpy as np

from bitfold.runtime.errors import OutputError

SPOOL_THRESHOLD = 1 << 20
"""Arrays of at least this many bytes go to disk instead of memory."""


def on_disk(array: np.ndarray, name: str) -> np.ndarray:
    """The same numbers, mapped from a temporary file if they are many.

    The file has no name, and vanishes with the last array that sees it.

    Args:
        name: what to call it where the disk is full.

    Raises:
        OutputError: the disk is full.
    """
    if array.nbytes < SPOOL_THRESHOLD:
        return array
    array = np.ascontiguousarray(array)
    try:
        with tempfile.TemporaryFile(prefix="bitfold-") as file:
            file.write(bytes_of(array))
            file.flush()
            return np.memmap(file, dtype=array.dtype, mode="r", shape=array.shape)
    except OSError as error:
        raise no_room(array, name, error) from error


def bytes_of(array: np.ndarray) -> memoryview:
    """The bytes of a contiguous array; ``tofile`` tells no cause when the disk is full."""
    return array.reshape(-1).view(np.uint8).data


def no_room(array: np.ndarray, name: str, error: OSError) -> OutputError:
    """The error of an array that the temporary folder cannot hold."""
    return OutputError(
        f"the temporary folder {tempfile.gettempdir()} cannot hold {name!r} of "
        f"{array.nbytes >> 20} MiB: {error.strerror or error}",
        "free space, or set TMPDIR to a folder with enough of it",
    )
