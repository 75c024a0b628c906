"""Activations of one to four bits against the NumPy oracle, in ORT, for every ISA."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.isas import isas
from support.plane_checks import CHECKS

from bitfold.runtime.op_library import op_library_path

TESTS = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("check", CHECKS)
def test_plane_kernels(check: str, isa: str) -> None:
    """Each check runs in a process of its own: the ISA is chosen when the library loads."""
    if check == "guard_pages" and sys.platform == "win32":
        pytest.skip("guard pages are made with mprotect")
    environment = {
        **os.environ,
        "BITFOLD_ISA": isa,
        "BITFOLD_OP_LIBRARY": str(op_library_path()),
        "PYTHONPATH": os.pathsep.join([str(TESTS), *filter(None, sys.path)]),
    }
    done = subprocess.run(
        [sys.executable, "-m", "support.plane_checks", check],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"exit code {done.returncode}: {done.stderr[-2000:]}"
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["isa"] == isa
    assert not answer["failures"], "\n".join(answer["failures"][:20])
