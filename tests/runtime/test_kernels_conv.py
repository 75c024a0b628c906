"""The convolution kernels against the NumPy oracle, in ORT, for every ISA of this machine."""

from __future__ import annotations

import sys

import pytest
from support.check_process import run_check
from support.conv_checks import CHECKS
from support.isas import isas


@pytest.mark.parametrize("isa", isas("avxvnni"))
@pytest.mark.parametrize("check", CHECKS)
def test_conv_kernels(check: str, isa: str) -> None:
    if check == "conv_guard_pages" and sys.platform == "win32":
        pytest.skip("guard pages are made with mprotect")
    run_check("conv_checks", check, isa)
