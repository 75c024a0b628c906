"""Powers of two, and sums of two of them: products with such levels are shifts.

``pot3`` to ``pot5`` have 0 and the powers that a sign and 2, 3 or 4 bits of exponent reach (INQ,
arXiv 1702.03044, section 2.1).  ``apot5`` has every sum of one of {0, 1, 1/4, 1/16} and one of
{0, 1/2, 1/8, 1/32}, which are denser near the largest (Additive Powers-of-Two Quantization, arXiv
1909.13144, equation 5 with n = 2 and k = 2).  ``pot5`` spans 2**14, more than int8 does.
"""

from __future__ import annotations

from collections.abc import Iterable

from bitfold.runtime.formats.format import Format


def signed(name: str, bits: int, magnitudes: Iterable[int]) -> Format:
    """A format of these magnitudes, which begin with 0, and their negatives."""
    positive = sorted(magnitudes)
    levels = tuple([-each for each in positive[:0:-1]] + positive)
    return Format(name, bits, levels, linear=False)


def power_of_two(bits: int) -> Format:
    """0 and the first powers of two, of either sign, in ``bits`` bits."""
    count = (1 << (bits - 1)) - 1
    return signed(f"pot{bits}", bits, [0, *(1 << exponent for exponent in range(count))])


APOT5 = signed("apot5", 5, [a + b for a in (0, 32, 8, 2) for b in (0, 16, 4, 1)])
