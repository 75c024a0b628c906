"""The instruction sets that the kernels are tested on."""

from __future__ import annotations

from bitfold.runtime.errors import UnsupportedError
from bitfold.runtime.op_library import supported_isas

SMALL_STEPS = {"avxvnni", "avx512bitalg"}
"""Each has one kernel or two of its own, and the rest from the one before it: ``avxvnni`` the
integer products of matrix multiplications and convolutions, ``avx512bitalg`` how matrix
multiplications unpack codes, and products of bit planes and masked weights."""


def isas(*small_steps: str) -> list[str]:
    """What to test; one that fails with the reason where the library is missing.

    Args:
        small_steps: those of ``SMALL_STEPS`` whose kernels the test runs.
    """
    try:
        return [isa for isa in supported_isas() if isa in small_steps or isa not in SMALL_STEPS]
    except UnsupportedError:
        return ["ref"]
