"""The sections ``gemv`` (one row) and ``gemm``: every format at every site, beside ORT's kernels.

What is compared is measured in turns, a slice of each, so that a disturbance meets all of them:
the limits, the kernel, and the peers.  A row's percentage and ratios are medians over the turns.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np

from bitfold.runtime.formats import FORMATS

from .machine import Machine, cache_sizes, level_of
from .ours import lowbit_matmul
from .peers import best_matmul_nbits, float_matmul
from .subject import Run, Subject, checked_rows, copies_for

PEER_BITS = (2, 4, 8)
BASELINE = (4, 32)
"""Bits and block of the peer that every format is compared with."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """What is measured.

    Attributes:
        shapes: K and N of each site.
        rows: numbers of rows M of the section ``gemm``.
        states: ``cold`` weights, more of them than the caches hold, or ``warm``, one over and over.
        per: what has an activation scale: a ``group``, a ``token``.
        seconds: for each slice.
        rounds: turns that each takes.
    """

    threads: tuple[int, ...]
    shapes: tuple[tuple[int, int], ...]
    rows: tuple[int, ...]
    states: tuple[str, ...]
    formats: tuple[str, ...]
    groups: tuple[int, ...]
    per: tuple[str, ...]
    seconds: float
    rounds: int
    peers: bool


def gemv(machine: Machine, options: Options) -> Iterator[Row]:
    """M=1, where weights come from DRAM and where they come from a cache."""
    beyond_caches = max(64 << 20, 2 * max(cache_sizes().values()))
    states = [(1, beyond_caches if state == "cold" else 0) for state in options.states]
    yield from _sections("gemv", machine, options, states)


def gemm(machine: Machine, options: Options) -> Iterator[Row]:
    """M from a few to many rows."""
    yield from _sections("gemm", machine, options, [(m, 0) for m in options.rows])


def _sections(
    section: str, machine: Machine, options: Options, states: list[tuple[int, int]]
) -> Iterator[Row]:
    for k, n in options.shapes:
        site = Site(machine, options, k, n)
        for name in options.formats:
            for group, per in product(options.groups, options.per):
                subject = lowbit_matmul(FORMATS[name], group, k, n, site.checked, per=per)
                for m, working_set in states:
                    for threads in options.threads:
                        bits = FORMATS[name].bits
                        for row in site.rows(subject, bits, group, m, working_set, threads):
                            yield {"section": section, **row}


@dataclass
class Site:
    """One shape, with ORT's kernels on it held ready.

    Their rows come before those of the first format that is compared with them.
    """

    machine: Machine
    options: Options
    k: int
    n: int
    x: np.ndarray = field(init=False)
    checked: np.ndarray = field(init=False)
    _peers: dict[tuple[int, ...], Run] = field(default_factory=dict)
    _floats: set[tuple[int, ...]] = field(default_factory=set)
    _alone: dict[tuple[str, int, int], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        counts = (1, *self.options.rows)
        self.x = np.random.default_rng(0).standard_normal((max(counts), self.k), np.float32)
        self.checked = self.x[sorted({row for m in counts for row in checked_rows(m)})]

    def rows(
        self, subject: Subject, bits: int, group: int, m: int, working_set: int, threads: int
    ) -> Iterator[Row]:
        """A format's row, after those of its peers that have none yet."""
        peers: dict[str, Run] = {}
        if self.options.peers:
            if (m, working_set, threads) not in self._floats:
                self._floats.add((m, working_set, threads))
                subject_f32 = float_matmul(self.k, self.n)
                yield self.measured(self.run(subject_f32, m, working_set, threads), m, {})
            same = (min(b for b in PEER_BITS if b >= bits), group)
            for label, (peer_bits, block) in {"4b g32": BASELINE, "same": same}.items():
                key = (peer_bits, block, m, working_set, threads)
                if key not in self._peers:
                    x = self.x[:m]
                    peer, level = best_matmul_nbits(peer_bits, block, self.k, self.n, x, threads)
                    self._peers[key] = self.run(peer, m, working_set, threads)
                    row = self.measured(self._peers[key], m, {})
                    yield {**row, "accuracy_level": level}
                peers[label] = self._peers[key]
        row = self.measured(self.run(subject, m, working_set, threads), m, peers)
        yield {**row, "bits": bits, "group": group}

    def run(self, subject: Subject, m: int, working_set: int, threads: int) -> Run:
        return Run(subject, self.x[:m], copies_for(subject.size, working_set), threads)

    def measured(self, run: Run, m: int, peers: dict[str, Run]) -> Row:
        """Take turns with the limits and the peers; see the module's docstring."""
        operations = 2 * m * self.n * self.k
        size, threads = run.subject.size, run.threads
        turns: list[dict[str, float]] = []
        for _ in range(self.options.rounds):
            turn = {
                "read": self.machine.read(run.working_set, threads),
                "int8": self.machine.int8(threads),
                "seconds": run.seconds(self.options.seconds),
            }
            # One run can be both peers.
            others = {id(peer): peer.seconds(self.options.seconds) for peer in peers.values()}
            turn |= {label: others[id(peer)] for label, peer in peers.items()}
            turn["read limit"] = size / turn["read"]
            turn["int8 limit"] = operations / turn["int8"]
            turns.append(turn)

        def median(name: str) -> float:
            return statistics.median(turn[name] for turn in turns)

        seconds = median("seconds")
        bound = "read" if median("read limit") >= median("int8 limit") else "int8"
        row: Row = {
            "kernel": run.subject.name,
            "K": self.k,
            "N": self.n,
            "M": m,
            "threads": threads,
            "memory": level_of(run.working_set),
            "weight bytes": size,
            "us": seconds * 1e6,
            "GB/s": size / seconds * 1e-9,
            "GOPS": operations / seconds * 1e-9,
            "limit": bound,
            "limit GB/s": median("read") * 1e-9,
            "limit GOPS": median("int8") * 1e-9,
            "limit us": median(f"{bound} limit") * 1e6,
            "percent": 100
            * statistics.median(turn[f"{bound} limit"] / turn["seconds"] for turn in turns),
            "verified": True,
        }
        for label, peer in peers.items():
            ratio = statistics.median(turn[label] / turn["seconds"] for turn in turns)
            row[f"x {label}"] = ratio
            row[f"{label} peer"] = peer.subject.name
        key = (run.subject.name, m, run.working_set)
        if threads == 1:
            self._alone[key] = seconds
        elif key in self._alone:
            row["x 1 thread"] = self._alone[key] / seconds
        return row
