"""Independent pieces of work, on all cores or on an engine that is there already.

Each piece computes on one core.  Threads of a matrix product inside it would wait for each other
where cores are busy with other pieces, and its rounding would depend on how many there are.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, partial
from itertools import islice
from types import TracebackType
from typing import TypeVar

from threadpoolctl import ThreadpoolController

from bitfold.runtime.errors import UnsupportedError

Item = TypeVar("Item")
Result = TypeVar("Result")

THREADS = "threads"
"""The engine that needs none: NumPy lets go of the interpreter as it computes."""

AT_ONCE = 64
"""Pieces that are handed to an engine of joblib at once; their results wait in memory."""


@dataclass(frozen=True)
class Engine:
    """Where pieces of work are done.  What comes of them does not depend on it.

    Attributes:
        name: ``threads`` of this process, or a backend of joblib: ``loky`` (processes on this
            machine), ``dask``, ``ray`` or one that was registered there.  Those of a cluster must
            have been connected to before.
        workers: pieces that are worked on at a time; 0 for one on each core.
    """

    name: str = THREADS
    workers: int = 0

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise UnsupportedError(f"expected a number of workers, or 0, found {self.workers}")

    def run(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """``work`` done on each of ``items``, in their order.

        Items are asked for in the caller's thread, a few ahead of the results.  Engines in other
        processes get ``work`` and the items as pickles.

        Raises:
            UnsupportedError: joblib, or the engine, is not there.
        """
        with _one_core:
            yield from self._begun(partial(_alone, work), iter(items))

    def _begun(self, work: Callable[[Item], Result], items: Iterator[Item]) -> Iterator[Result]:
        first = list(islice(items, 2))
        if len(first) < 2 or self.workers == 1:
            yield from map(work, first)
            yield from map(work, items)
        elif self.name == THREADS:
            yield from _on_threads(work, first, items, self.workers or os.cpu_count() or 1)
        else:
            run = _on_joblib(self.name, self.workers)
            while first:
                first += islice(items, AT_ONCE - len(first))
                yield from run([partial(work, item) for item in first])
                first = list(islice(items, AT_ONCE))


ONE_AT_A_TIME = Engine(workers=1)
"""No engine: for pieces of what is itself a piece of work."""


def _on_threads(
    work: Callable[[Item], Result], first: list[Item], items: Iterator[Item], workers: int
) -> Iterator[Result]:
    with ThreadPoolExecutor(workers) as pool, ExitStack() as stack:
        stack.callback(pool.shutdown, cancel_futures=True)
        ahead = deque(pool.submit(work, item) for item in first)
        for item in items:
            ahead.append(pool.submit(work, item))
            if len(ahead) > workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _on_joblib(name: str, workers: int) -> Callable[[list[Callable[[], Result]]], list[Result]]:
    """What calls functions on a backend of joblib."""
    try:
        import joblib
    except ImportError as error:
        raise UnsupportedError(
            f"the engine {name!r} needs joblib, which is not installed",
            "pip install 'bitfold[cluster]', or leave the engine out to use threads",
        ) from error
    try:
        if name == "ray":
            from ray.util.joblib import register_ray

            register_ray()
        with joblib.parallel_config(backend=name, n_jobs=workers or -1):
            parallel = joblib.Parallel()
    except (ImportError, ValueError, KeyError) as error:
        raise UnsupportedError(
            f"joblib cannot use the engine {name!r}: {error}",
            "install it, and connect to its cluster first",
        ) from error

    def run(calls: list[Callable[[], Result]]) -> list[Result]:
        found: list[Result] = parallel(joblib.delayed(call)() for call in calls)
        return found

    return run


def _alone(work: Callable[[Item], Result], item: Item) -> Result:
    """``work``, on one core in whichever process this is."""
    with _one_core:
        return work(item)


class _OneCore:
    """While anyone is inside, matrix products of this process stay on the core they begin on.

    The limit holds for the whole process: the last one out lifts it.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside = 0
        self.stack = ExitStack()

    def __enter__(self) -> None:
        with self.lock:
            if not self.inside:
                self.stack.enter_context(_libraries().limit(limits=1))
            self.inside += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self.lock:
            self.inside -= 1
            if not self.inside:
                self.stack.close()


_one_core = _OneCore()


@cache
def _libraries() -> ThreadpoolController:
    """Those that start threads of their own; to find them takes milliseconds."""
    return ThreadpoolController()
