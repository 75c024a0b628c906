"""Arrays beside a page of memory that kills the process when it is touched (POSIX only)."""

from __future__ import annotations

import ctypes
import mmap

import numpy as np

BEHIND = ("end", "begin")
"""Which side of the array the forbidden page is on."""

_kept: list[mmap.mmap] = []


def guarded_copy(array: np.ndarray, side: str) -> np.ndarray:
    """A copy of ``array`` whose last (``end``) or first (``begin``) byte borders on such a page.

    Raises:
        OSError: the page cannot be protected.
    """
    page = mmap.PAGESIZE
    pages = max(1, -(-array.nbytes // page))
    memory = mmap.mmap(-1, (pages + 2) * page)
    _kept.append(memory)  # unmapping would move the guard away
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for guard in (address, address + (pages + 1) * page):
        if libc.mprotect(guard, page, 0) != 0:
            raise OSError(ctypes.get_errno(), "mprotect")
    offset = page if side == "begin" else (pages + 1) * page - array.nbytes
    copy = np.frombuffer(memory, array.dtype, array.size, offset).reshape(array.shape)
    copy[...] = array
    return copy
