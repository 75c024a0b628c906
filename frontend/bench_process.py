"""The process that times one model: starting it, and the line to it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import bitfold
from bitfold.runtime import errors
from bitfold.runtime.errors import BitfoldError

SETTLE_SECONDS = 0.02
"""Pause before each command: the other process's idle threads stop spinning in it."""


class BenchProcess:
    """A `bench_worker` process and the line to it."""

    def __init__(self, path: Path, threads: int, library: bool) -> None:
        self._name = path.name
        root = str(Path(bitfold.__file__).resolve().parent.parent)
        search = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bitfold.frontend.bench_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(search)},
            text=True,
        )
        self.call("start", path=str(path), threads=threads, library=library)

    def call(self, name: str, **options: Any) -> Any:
        """Send a command, wait for its answer; errors are raised here as they were there."""
        time.sleep(SETTLE_SECONDS)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": name, **options}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            code = self._process.wait()
            raise BitfoldError(
                f"the process that ran {self._name} ended with code {code}",
                "a negative code is a signal: -9 usually means that memory ran out",
            )
        answer = json.loads(line)
        if "error" in answer:
            kind, message, hint = answer["error"]
            raise getattr(errors, kind, BitfoldError)(message, hint)
        return answer["ok"]

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # it is dead already
                self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
