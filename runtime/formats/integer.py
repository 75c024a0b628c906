"""Two's-complement integers of 2 to 8 bits: every level from ``-2**(b-1)`` to ``2**(b-1) - 1``."""

from __future__ import annotations

from bitfold.runtime.formats.format import Format


def integer(bits: int) -> Format:
    """The signed integer format of ``bits`` bits."""
    half = 1 << (bits - 1)
    return Format(f"int{bits}", bits, tuple(range(-half, half)))
