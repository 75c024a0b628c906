"""The attention kernels against the NumPy oracle, in ORT, for every ISA of this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.attention_checks import CHECKS

from bitfold.runtime.errors import UnsupportedError
from bitfold.runtime.op_library import op_library_path, supported_isas

TESTS = Path(__file__).resolve().parents[1]


def isas() -> list[str]:
    """What to test; one that fails with the reason where the library is missing."""
    try:
        return supported_isas()
    except UnsupportedError:
        return ["ref"]


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("check", CHECKS)
def test_attention_kernels(check: str, isa: str) -> None:
    """Each check runs in a process of its own: the ISA is chosen when the library loads."""
    if check == "attention_guard_pages" and sys.platform == "win32":
        pytest.skip("guard pages are made with mprotect")
    environment = {
        **os.environ,
        "BITFOLD_ISA": isa,
        "BITFOLD_OP_LIBRARY": str(op_library_path()),
        "PYTHONPATH": os.pathsep.join([str(TESTS), *filter(None, sys.path)]),
    }
    done = subprocess.run(
        [sys.executable, "-m", "support.attention_checks", check],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"exit code {done.returncode}: {done.stderr[-2000:]}"
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["isa"] == isa
    assert not answer["failures"], "\n".join(answer["failures"][:20])
