"""Time alternatives of one computation in turns, so that noise hits all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence

from bitfold.passes.core.context import Feeds
from bitfold.runtime.execution import Execution

ROUNDS = 7
"""Turns of each alternative; what counts is the median over them."""

TURN_SECONDS = 4e-3
"""How long a turn repeats a run that is shorter."""

LEAST_RUNS = 3
"""Runs of a turn at least: another process may take the core away from one."""

WARM_RUNS = 2
"""Runs before the first that counts."""

MOST_TURNS = 50
"""Turns of a brief look, where runs are short."""


def time_in_turns(
    sessions: Mapping[str, Execution], feeds: Feeds, rounds: int = ROUNDS
) -> dict[str, float]:
    """Seconds of a run of each session on ``feeds``: the median of its turns' fastest runs."""
    names = list(sessions)
    for name in names:
        for _ in range(WARM_RUNS):
            sessions[name].run(feeds)
    turns: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in _rotated(names, turn):
            turns[name].append(_turn(sessions[name], feeds))
    return {name: statistics.median(each) for name, each in turns.items()}


def time_briefly(
    sessions: Mapping[str, Execution], feeds: Feeds, seconds: float
) -> dict[str, float] | None:
    """Seconds of the fastest run of each session on ``feeds``: less exact, but soon done.

    Args:
        seconds: how long all turns may take together; a turn that was begun is ended.

    Returns:
        None where a run of the first session alone takes longer.  Where one of another does, the
        first run of each counts.
    """
    names = list(sessions)
    fastest: dict[str, float] = {}
    for name in names:
        fastest[name] = _once(sessions[name], feeds)
        if name == names[0] and fastest[name] > seconds:
            return None
    started = time.perf_counter()
    for turn in range(MOST_TURNS if max(fastest.values()) <= seconds else 0):
        for name in _rotated(names, turn):
            fastest[name] = min(fastest[name], _once(sessions[name], feeds))
        if time.perf_counter() - started > seconds:
            break
    return fastest


def _once(session: Execution, feeds: Feeds) -> float:
    before = time.perf_counter()
    session.run(feeds)
    return time.perf_counter() - before


def _rotated(names: Sequence[str], by: int) -> list[str]:
    """Each goes first in its turn: what follows a long run finds the caches cold."""
    start = by % len(names)
    return [*names[start:], *names[:start]]


def _turn(session: Execution, feeds: Feeds) -> float:
    started = time.perf_counter()
    times: list[float] = []
    while len(times) < LEAST_RUNS or time.perf_counter() - started < TURN_SECONDS:
        times.append(_once(session, feeds))
    return min(times)
