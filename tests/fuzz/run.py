"""Fuzz import, inspect and convert: ``python tests/fuzz/run.py --count 10000``.

Case n is the same on every machine: a sound model of seeds.py, broken by mutate.py from the seed
n.  Anything but a converted model or a BitfoldError is a fault, and so is a worker that dies or
that a watchdog has to end.  ``--show N`` writes case N's files and tells what becomes of it.
"""

from __future__ import annotations

import argparse
import json
import select
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
GOOD = ("converted", "refused")
WATCHDOG = 300.0
"""Seconds after which a case counts as hanging; the slowest takes a hundredth of that."""


class Worker:
    """A process that serves cases; a new one takes its place when it dies."""

    def __init__(self, watchdog: float, script: Path = HERE / "worker.py") -> None:
        self.watchdog = watchdog
        self._script = script
        self._process: subprocess.Popen[str] | None = None

    def run(self, number: int) -> dict[str, Any]:
        """What came of case ``number``: the worker's answer, or how the worker ended."""
        process = self._process
        if process is None or process.poll() is not None:
            process = self._process = self._start()
        assert process.stdin is not None
        process.stdin.write(f"{number}\n")
        process.stdin.flush()
        line = self._line(process)
        if line is None:
            self.close()
            return {"number": number, "outcome": "hang", "error": f"over {self.watchdog:g} s"}
        if not line:
            code = process.wait()
            name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            return {"number": number, "outcome": "crash", "error": name}
        return dict(json.loads(line))

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _start(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, str(self._script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        if self._line(process) != "ready\n":
            raise RuntimeError("the worker does not start")
        return process

    def _line(self, process: subprocess.Popen[str]) -> str | None:
        """The next line; empty when the process has ended, None when it takes too long."""
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], self.watchdog)
        return process.stdout.readline() if ready else None


def fuzz(
    numbers: Iterable[int], watchdog: float = WATCHDOG, script: Path = HERE / "worker.py"
) -> Iterator[dict[str, Any]]:
    """What came of each case."""
    worker = Worker(watchdog, script)
    try:
        for number in numbers:
            yield worker.run(number)
    finally:
        worker.close()


def show(number: int, folder: Path) -> None:
    """Write a case's files to ``folder`` and print what becomes of it, in this process."""
    sys.path.insert(0, str(HERE))
    from worker import SEEDS, make_case, run_case

    seeds = {make.__name__: make() for make in SEEDS}
    name, files = make_case(number, seeds)
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        (folder / file).write_bytes(content)
    print(f"case {number}, made from {name}: {', '.join(files)} in {folder}")
    result = run_case(number, seeds)
    print(result.pop("trace", ""))
    print(json.dumps(result, indent=1))


def main() -> int:
    """The command line; the exit code tells whether there was a fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--watchdog", type=float, default=WATCHDOG, metavar="SECONDS")
    parser.add_argument("--show", type=int, metavar="N", help="write case N to --folder, run it")
    parser.add_argument("--folder", type=Path, default=Path("fuzz-case"))
    options = parser.parse_args()
    if options.show is not None:
        show(options.show, options.folder)
        return 0
    outcomes: Counter[str] = Counter()
    for result in fuzz(range(options.start, options.start + options.count), options.watchdog):
        outcomes[result["outcome"]] += 1
        if result["outcome"] not in GOOD:
            print(f"{result['number']}: {result['outcome']}: {result['error']}", flush=True)
            if "trace" in result:
                print("    " + "\n    ".join(result["trace"].splitlines()[-5:]), flush=True)
        if sum(outcomes.values()) % 500 == 0:
            print(f"{sum(outcomes.values())}: {dict(outcomes)}", flush=True)
    print(dict(outcomes))
    return 0 if set(outcomes) <= set(GOOD) else 1


if __name__ == "__main__":
    sys.exit(main())
