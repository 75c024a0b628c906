"""The instruction sets that the kernels are tested on."""

from __future__ import annotations

from bitfold.runtime.errors import UnsupportedError
from bitfold.runtime.op_library import supported_isas


def isas() -> list[str]:
    """What to test; one that fails with the reason where the library is missing."""
    try:
        return supported_isas()
    except UnsupportedError:
        return ["ref"]
