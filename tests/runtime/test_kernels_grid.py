"""Every format x group size x odd shape x number of threads, for every ISA of this machine."""

from __future__ import annotations

import pytest
from support.check_process import run_check
from support.isas import isas


@pytest.mark.parametrize("isa", isas("avxvnni", "avx512bitalg"))
def test_sampled(isa: str) -> None:
    run_check("grid_checks", "sampled", isa)


@pytest.mark.slow
@pytest.mark.parametrize("isa", isas("avxvnni", "avx512bitalg"))
def test_full(isa: str) -> None:
    run_check("grid_checks", "full", isa)
