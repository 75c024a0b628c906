"""Run a check of the kernels in a process of its own: the ISA is chosen when the library loads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from bitfold.runtime.op_library import op_library_path

TESTS = Path(__file__).resolve().parents[1]


def run_check(
    module: str, check: str, isa: str, environment: Mapping[str, str] | None = None
) -> None:
    """Run ``python -m support.<module> <check>``, which prints JSON: the ISA and its failures.

    Raises:
        AssertionError: the process ends otherwise, or there are failures.
    """
    given = {
        "BITFOLD_OP_LIBRARY": str(op_library_path()),
        "PYTHONPATH": os.pathsep.join([str(TESTS), *filter(None, sys.path)]),
        **(environment or {}),
        "BITFOLD_ISA": isa,
    }
    done = subprocess.run(
        [sys.executable, "-m", f"support.{module}", check],
        env={**os.environ, **given},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"exit code {done.returncode}: {done.stderr[-6000:]}"
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["isa"] == isa
    assert not answer["failures"], "\n".join(answer["failures"][:20])
