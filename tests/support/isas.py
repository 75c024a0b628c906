"""The instruction sets that the kernels are tested on."""

from __future__ import annotations

from bitfold.runtime.errors import UnsupportedError
from bitfold.runtime.op_library import supported_isas

OF_PLANES = {"avx512bitalg"}
"""Those whose kernels of bit planes and masked weights alone differ from the ones before."""


def isas(planes: bool = False) -> list[str]:
    """What to test; one that fails with the reason where the library is missing.

    Args:
        planes: the kernels of bit planes or masked weights are tested.
    """
    try:
        return [isa for isa in supported_isas() if planes or isa not in OF_PLANES]
    except UnsupportedError:
        return ["ref"]
