"""The attention kernels against the NumPy oracle, in ORT, for every ISA of this machine."""

from __future__ import annotations

import sys

import pytest
from support.attention_checks import CHECKS
from support.check_process import run_check
from support.isas import isas


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("check", CHECKS)
def test_attention_kernels(check: str, isa: str) -> None:
    if check == "attention_guard_pages" and sys.platform == "win32":
        pytest.skip("guard pages are made with mprotect")
    run_check("attention_checks", check, isa)
