"""The kernels' own tests once more, in a library built under the compiler's sanitizers.

Address and undefined-behaviour sanitizers watch the library inside ORT; buffers have the size
that they need and no more.  The thread sanitizer watches a program of its own, since it cannot
see how ORT's threads synchronize.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import conv_checks, kernel_checks, masked_checks, plane_checks, skip_checks
from support.check_process import run_check
from support.isas import SMALL_STEPS, isas
from support.real_models import SHORT
from support.sanitizers import TESTS, address_environment, build, missing

pytestmark = pytest.mark.slow

CHECKS = [
    *(("kernel_checks", name) for name in kernel_checks.CHECKS),
    *(("conv_checks", name) for name in conv_checks.CHECKS),
    ("grid_checks", "full"),
    *(("plane_checks", name) for name in plane_checks.CHECKS),
    *(("masked_checks", name) for name in masked_checks.CHECKS),
    *(("skip_checks", name) for name in skip_checks.CHECKS),
]
IN_SHORT = {"odd_shapes", "guard_pages", "conv_sizes", "conv_guard_pages"}
HOSTILE = ["test_kernels_refusals.py", "test_kernels_conv_refusals.py", "test_kernels_hostile.py"]
HOSTILE += ["test_masked_refusals.py"]
ISAS = isas(*SMALL_STEPS)[-1:] if SHORT else isas(*SMALL_STEPS)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment with the library under the address and undefined-behaviour sanitizers."""
    folder = tmp_path_factory.mktemp("address")
    reason = missing("address,undefined", folder)
    if reason:
        pytest.skip(reason)
    build("address,undefined", folder, "bitfold_ops")
    return address_environment(folder / "libbitfold_ops.so")


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    ("module", "check"), [each for each in CHECKS if not SHORT or each[1] in IN_SHORT]
)
def test_address(address: dict[str, str], module: str, check: str, isa: str) -> None:
    run_check(module, check, isa, address)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_inputs(address: dict[str, str], name: str) -> None:
    environment = {**address, "BITFOLD_EXAMPLES": "40" if SHORT else "400"}
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", str(TESTS / "runtime" / name)]
    done = subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


def test_sanitizer_is_awake(address: dict[str, str]) -> None:
    """What the tests above rely on: a read beyond an array of Python's ends the process."""
    code = (
        "import ctypes, os, numpy as np;"
        "library = ctypes.CDLL(os.environ['BITFOLD_OP_LIBRARY']);"
        "x = np.zeros(100, np.uint8);"
        "ctypes.CDLL(None).memcmp(x.ctypes.data_as(ctypes.c_void_p),"
        " bytes(101), 101)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=address, capture_output=True, text=True)
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program of ``tests/runtime/cpp`` under the thread sanitizer."""
    folder = tmp_path_factory.mktemp("thread")
    reason = missing("thread", folder)
    if reason:
        pytest.skip(reason)
    build("thread", folder, "bitfold_threads")
    return folder / "bitfold_threads"


@pytest.mark.skipif(SHORT, reason="in the full form: another build of the library")
@pytest.mark.parametrize("isa", ISAS)
def test_threads(program: Path, isa: str) -> None:
    """No race between the tasks of a call, nor between calls, in any kernel."""
    rows = ["1", "13"] if isa == "ref" else []
    done = subprocess.run(
        [program, *rows],
        env={**os.environ, "BITFOLD_ISA": isa, "TSAN_OPTIONS": "halt_on_error=1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    assert done.stdout.endswith(f"{isa}: 0 failures\n")
