"""Levels that lose the least squared error on normally distributed values.

Weights are nearly so after a Hadamard rotation, which is what QuEST fits its grid to (arXiv
2502.05003, section 3.1).  ``gauss2`` to ``gauss5`` have the best levels of any spacing: those of
Max (Quantizing for Minimum Distortion, 1960, table I) and Lloyd, rounded to whole numbers for int8
inputs, which are too coarse for the levels of 6 bits.  ``odd2`` to ``odd4`` have QuEST's own,
evenly spaced about a 0 that is none of them: ``quantize{ranges=gauss}`` gives them, as any other
format, the paper's scale.
"""

from __future__ import annotations

from bitfold.runtime.formats.format import Format
from bitfold.runtime.formats.whole import whole_levels

MAGNITUDES = {
    2: (0.4528, 1.510),
    3: (0.2451, 0.7560, 1.344, 2.152),
    4: (0.1284, 0.3881, 0.6568, 0.9424, 1.256, 1.618, 2.069, 2.733),
    5: (
        *(0.0659, 0.1981, 0.3314, 0.4667, 0.6049, 0.7471, 0.8946, 1.049),
        *(1.212, 1.386, 1.576, 1.787, 2.029, 2.318, 2.691, 3.261),
    ),
}
"""Max's levels above 0 for a standard deviation of 1, by bits."""


def gaussian(bits: int) -> Format:
    """The best levels of ``bits`` bits, of any spacing."""
    positive = MAGNITUDES[bits]
    levels = whole_levels([*(-each for each in positive[::-1]), *positive])
    return Format(f"gauss{bits}", bits, levels, linear=False)


def odd(bits: int) -> Format:
    """Odd integers: as many levels below 0 as above, at equal distances."""
    most = (1 << bits) - 1
    return Format(f"odd{bits}", bits, tuple(range(-most, most + 1, 2)), linear=False)
