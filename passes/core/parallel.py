"""Independent pieces of work on all cores: NumPy lets go of the interpreter as it computes.

Each piece computes on one core.  Threads of a matrix product inside it would wait for each other
where cores are busy with other pieces, and its rounding would depend on how many there are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

from threadpoolctl import ThreadpoolController

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_parallel(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """``work`` done on each of ``items``, in their order, whatever the number of cores."""
    with _libraries().limit(limits=1):
        if len(items) < 2:
            return [work(item) for item in items]
        with ThreadPoolExecutor(min(len(items), os.cpu_count() or 1)) as pool:
            return list(pool.map(work, items))


@cache
def _libraries() -> ThreadpoolController:
    """Those that start threads of their own; to find them takes milliseconds."""
    return ThreadpoolController()
