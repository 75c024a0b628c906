"""NormalFloat in 4 bits: quantiles of a normal distribution (QLoRA, arXiv 2305.14314, appendix E).

The paper's 16 values are rounded to 127ths of the largest, so that int8 inputs can be multiplied by
them: off by at most 1/254 of it, a twentieth of the smallest distance between two of them.
"""

from __future__ import annotations

from bitfold.runtime.formats.format import Format

QUANTILES = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
"""The values of the paper, in the order of their codes."""

NF4 = Format("nf4", 4, tuple(round(127 * value) for value in QUANTILES), linear=False)
