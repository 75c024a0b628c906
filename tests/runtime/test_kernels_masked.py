"""Masked weights against the NumPy oracle, in ORT, for every ISA."""

from __future__ import annotations

import sys

import pytest
from support.check_process import run_check
from support.isas import isas
from support.masked_checks import CHECKS


@pytest.mark.parametrize("isa", isas("avx512bitalg"))
@pytest.mark.parametrize("check", CHECKS)
def test_masked_kernels(check: str, isa: str) -> None:
    if check == "guard_pages" and sys.platform == "win32":
        pytest.skip("guard pages are made with mprotect")
    run_check("masked_checks", check, isa)
