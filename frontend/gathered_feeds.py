"""Inputs from whatever gives them one by one: read once, and kept on disk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from bitfold.passes.core.context import Feeds
from bitfold.passes.core.spool import Spool
from bitfold.runtime.errors import CalibrationError

IN_MEMORY = 1 << 12
"""Bytes of an array from which it goes to disk."""


def gathered(feeds: Iterable[Feeds]) -> Sequence[Feeds]:
    """Sets of inputs that can be read again: a sequence as it is, what an iterator gives on disk.

    Raises:
        CalibrationError: an iterator gave none, or something else than arrays by name.
        OutputError: the disk is full.
    """
    if isinstance(feeds, Sequence):
        return feeds
    spool, found = Spool(least=IN_MEMORY), []
    for number, each in enumerate(feeds):
        if not isinstance(each, Mapping):
            raise CalibrationError(
                f"calibration sample {number}: expected a dictionary of arrays by the names of the "
                f"model's inputs, found {type(each).__name__}"
            )
        found.append({name: _held(spool, array, name) for name, array in each.items()})
    spool.close()
    if not found:
        raise CalibrationError(
            "the iterator of calibration inputs gave none",
            "an iterator is read once: make a new one for each conversion",
        )
    return found


def _held(spool: Spool, array: np.ndarray, name: str) -> np.ndarray:
    array = np.asarray(array)
    # Strings are objects elsewhere in memory.  What is kept there is a copy: an iterator may give
    # the same array again, filled anew.
    return array.copy() if array.dtype.hasobject else spool.hold(array, name, copy=True)
