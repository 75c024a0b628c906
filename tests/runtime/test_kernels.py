"""The C++ kernels against the NumPy oracles, in ORT, for every ISA that this machine has."""

from __future__ import annotations

import sys

import pytest
from support.check_process import run_check
from support.isas import isas
from support.kernel_checks import CHECKS


@pytest.mark.parametrize("isa", isas("avx512bitalg"))
@pytest.mark.parametrize("check", CHECKS)
def test_kernels(check: str, isa: str) -> None:
    if check == "guard_pages" and sys.platform == "win32":
        pytest.skip("guard pages are made with mprotect")
    run_check("kernel_checks", check, isa)
