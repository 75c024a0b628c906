"""What this machine can do: bytes read a second for a working set, int8 operations a second."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np

PROBE = Path(__file__).resolve().parents[3] / "runtime" / "cpp" / "probe" / "machine_probe.cc"
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
LARGEST = 256 << 20
"""Bytes of the largest working set."""
SLICE = 32 << 20
"""Bytes that one measurement reads at least."""


def cache_sizes() -> dict[int, int]:
    """Bytes of each level of cache that core 0 reaches; a guess where Linux does not say."""
    sizes = {2: 1 << 20, 3: 32 << 20}
    for entry in CACHES.glob("index*"):
        if (entry / "type").read_text().strip() != "Instruction":
            text = (entry / "size").read_text().strip()
            sizes[int((entry / "level").read_text())] = int(text.rstrip("K")) << 10
    return sizes


def level_of(size: int) -> str:
    """The level of memory that ``size`` bytes live in when they are read over and over."""
    for level, capacity in sorted(cache_sizes().items()):
        if size <= capacity:
            return f"L{level}"
    return "DRAM"


class Machine:
    """Measures the limits whenever asked.

    A C++ compiler (``CXX``, or ``c++``) builds the probe.
    """

    def __init__(self) -> None:
        compiler = shutil.which(os.environ.get("CXX", "c++"))
        if compiler is None:
            raise SystemExit("a C++ compiler is needed for the probe: set CXX")
        with tempfile.TemporaryDirectory() as folder:
            built = Path(folder) / "probe.so"
            flags = ["-O3", "-std=c++17", "-march=native", "-shared", "-fPIC"]
            subprocess.run([compiler, *flags, str(PROBE), "-o", str(built)], check=True)
            self._probe = ctypes.CDLL(str(built))
        self._probe.probe_int8.restype = ctypes.c_double
        self._probe.probe_read.restype = ctypes.c_double
        self._probe.probe_read.argtypes = [
            *(ctypes.c_void_p, ctypes.c_size_t),
            *(ctypes.c_int, ctypes.c_int),
        ]
        self._memory = np.ones(LARGEST, np.uint8)
        self._ways: dict[tuple[int, int], int] = {}

    def int8(self, threads: int) -> float:
        """Operations a second (a multiply-add is two) of bytes held in registers.

        The best of many short runs: a peak that other work on the machine held down is none.
        """
        runs = (self._rate(lambda _: float(self._probe.probe_int8()), threads) for _ in range(16))
        return max(runs)

    def read(self, size: int, threads: int) -> float:
        """Bytes a second, read over and over from a working set of ``size`` bytes.

        Each thread reads a part of its own, in whichever way was fastest at the first call.
        """
        size = min(size, LARGEST)
        key = (size, threads)
        if key not in self._ways:
            rates = [
                max(self._read(size, threads, way) for _ in range(3))
                for way in range(self._probe.probe_ways())
            ]
            self._ways[key] = rates.index(max(rates))
        return max(self._read(size, threads, self._ways[key]) for _ in range(2))

    def _read(self, size: int, threads: int, way: int) -> float:
        part = size // threads
        times = -(-SLICE // size)
        base = self._memory.ctypes.data

        def read(index: int) -> float:
            return float(self._probe.probe_read(base + index * part, part, times, way))

        read(0)  # into the cache
        return self._rate(read, threads)

    def _rate(self, work: Callable[[int], float], threads: int) -> float:
        """All threads' work over the time from the first start to the last end.

        Adding each thread's own rate would overstate it whenever they did not overlap.
        """
        ready = Barrier(threads)

        def timed_work(index: int) -> tuple[float, float, float]:
            ready.wait()
            begin = time.perf_counter()
            amount = work(index)
            return begin, time.perf_counter(), amount

        if threads == 1:
            begin, end, amount = timed_work(0)
            return amount / (end - begin)
        with ThreadPoolExecutor(threads) as pool:
            begins, ends, amounts = zip(*pool.map(timed_work, range(threads)), strict=True)
        return float(sum(amounts) / (max(ends) - min(begins)))
