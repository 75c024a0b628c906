"""Small floating-point numbers: a sign, a few bits of exponent and a few of mantissa.

A code has the bits sign, exponent, mantissa from its top.  With exponent field e and mantissa
field m it is ``2**(e - bias) * (1 + m / 2**M)``, or ``2**(1 - bias) * m / 2**M`` where e is 0;
the bias is ``2**(E - 1) - 1``.  E2M1, E2M3 and E3M2 have no infinities and no NaN (OCP
Microscaling Formats v1.0, section 5.3), E4M3 has a NaN in place of its largest magnitude, and
E5M2 infinities and NaN in its largest exponent (OCP 8-bit Floating Point Specification v1.0).

Where whole multiples of the smallest magnitude fit in int8, the levels are these; else they are the
numbers themselves, which takes a float32 table.
"""

from __future__ import annotations

from bitfold.runtime.formats.format import Format


def values_of(exponent_bits: int, mantissa_bits: int) -> list[float]:
    """What each magnitude (a code less its sign) stands for, special codes as if they were none."""
    bias = (1 << (exponent_bits - 1)) - 1
    whole = 1 << mantissa_bits
    values = []
    for code in range(1 << (exponent_bits + mantissa_bits)):
        exponent, mantissa = divmod(code, whole)
        fraction = mantissa / whole + (exponent > 0)
        values.append(fraction * 2.0 ** (max(exponent, 1) - bias))
    return values


def minifloat(name: str, exponent_bits: int, mantissa_bits: int, special: int = 0) -> Format:
    """A format of 1 + ``exponent_bits`` + ``mantissa_bits`` bits.

    Args:
        special: the number of largest magnitudes that stand for infinity or NaN.
    """
    magnitudes = values_of(exponent_bits, mantissa_bits)
    magnitudes = magnitudes[: len(magnitudes) - special]
    sign = 1 << (exponent_bits + mantissa_bits)
    steps = [magnitude / magnitudes[1] for magnitude in magnitudes]
    if steps[-1] <= 127:
        magnitudes = [int(step) for step in steps]
    negative = [(-value, sign + code) for code, value in enumerate(magnitudes) if code]
    pairs = negative[::-1] + [(value, code) for code, value in enumerate(magnitudes)]
    levels, codes = zip(*pairs, strict=True)
    return Format(name, 1 + exponent_bits + mantissa_bits, levels, linear=False, codes=codes)


FP4 = minifloat("fp4", 2, 1)
FP6_E2M3 = minifloat("fp6_e2m3", 2, 3)
FP6_E3M2 = minifloat("fp6_e3m2", 3, 2)
FP8_E4M3 = minifloat("fp8_e4m3", 4, 3, special=1)
FP8_E5M2 = minifloat("fp8_e5m2", 5, 2, special=4)
