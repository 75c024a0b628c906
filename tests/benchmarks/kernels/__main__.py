"""The command: see ``bench_kernels.py``."""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnxruntime as ort

from bitfold.runtime.formats import FORMATS
from bitfold.runtime.op_library import isa

from .hadamard import hadamard
from .low_rank import low_rank
from .machine import Machine, cache_sizes
from .matmul import Options, gemm, gemv
from .planes import planes
from .table import HEADER, line, summary

SECTIONS: dict[str, Callable[[Machine, Options], Iterator[dict[str, Any]]]] = {
    "gemv": gemv,
    "gemm": gemm,
    "planes": planes,
    "low_rank": low_rank,
    "hadamard": hadamard,
}

SHAPES = "576x576,576x192,576x3072,1536x576,576x49152,4096x4096,4096x11008"
"""K x N: SmolLM2's sites, and two of a model of 7 billion weights."""
SHAPE_OF_QUICK = "576x192"

WANTED = ("int8", "int4", "int3", "int2", "ternary", "fp4", "nf4")
"""The formats measured unless --formats says more, those of them that there are."""


def processor() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    for text in info.read_text().splitlines() if info.exists() else []:
        if text.startswith("model name"):
            return text.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def parsed() -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(
        "bench_kernels.py", description="Time the kernels against this machine's limits and ORT."
    )
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections")
    parser.add_argument("--threads", default="1", help="such as 1,2")
    parser.add_argument("--shapes", default=SHAPES, help="K x N of the sites")
    parser.add_argument("--rows", default="8,128,512", help="M of gemm and planes")
    parser.add_argument("--states", default="cold,warm", help="of gemv's weights")
    parser.add_argument("--formats", default=",".join(f for f in WANTED if f in FORMATS))
    parser.add_argument("--groups", default="32,128")
    parser.add_argument("--per", default="group", help="activation scales: group, token")
    parser.add_argument("--seconds", type=float, default=0.02, help="for each slice")
    parser.add_argument("--rounds", type=int, default=5, help="slices of each")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--quick", action="store_true", help="run everything once, small")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    for name, known in (("only", SECTIONS), ("formats", FORMATS), ("per", ("group", "token"))):
        for item in getattr(options, name).split(","):
            if item not in known:
                parser.error(f"--{name}: expected some of {', '.join(known)}, found {item}")
    if options.quick:
        options.shapes, options.seconds, options.rounds = SHAPE_OF_QUICK, 0.001, 1
        options.rows = "8,128"
    return options


def numbers(text: str, separator: str = ",") -> tuple[int, ...]:
    """Integers in text."""
    return tuple(int(part) for part in text.split(separator))


def main() -> None:
    """Print the table and write it as JSON."""
    given = parsed()
    options = Options(
        threads=numbers(given.threads),
        shapes=tuple((k, n) for k, n in (numbers(each, "x") for each in given.shapes.split(","))),
        rows=numbers(given.rows),
        states=tuple(given.states.split(",")),
        formats=tuple(given.formats.split(",")),
        groups=numbers(given.groups),
        per=tuple(given.per.split(",")),
        seconds=given.seconds,
        rounds=given.rounds,
        peers=not given.no_peers,
    )
    machine = Machine()
    caches = {f"L{level}": size for level, size in sorted(cache_sizes().items())}
    facts: dict[str, Any] = {
        "processor": processor(),
        "isa": isa(),
        "ort": ort.__version__,
        "caches": caches,
        "limits": {
            str(threads): {
                "int8 GOPS": machine.int8(threads) * 1e-9,
                **{
                    f"{name} GB/s": machine.read(size, threads) * 1e-9
                    for name, size in (
                        ("L2", caches["L2"] // 2),
                        ("L3", caches["L3"] // 4),
                        ("DRAM", 256 << 20),
                    )
                },
            }
            for threads in options.threads
        },
    }
    print(f"{facts['processor']}, ISA {facts['isa']}, ORT {facts['ort']}")
    for threads, limits in facts["limits"].items():
        figures = ", ".join(f"{name} {value:.0f}" for name, value in limits.items())
        print(f"limits of {threads} thread(s): {figures}")
    rows: list[dict[str, Any]] = []
    for section in given.only.split(","):
        print(f"\n{section}\n{HEADER}")
        for row in SECTIONS[section](machine, options):
            print(line(row), flush=True)
            rows.append(row)
    print()
    for text in summary(rows):
        print(text)
    if given.json:
        given.json.write_text(json.dumps({"machine": facts, "results": rows}, indent=1))


if __name__ == "__main__":
    main()
