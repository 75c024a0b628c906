"""Power-exponent codes: the level of code k is ``sign(k) |k|**p`` (NUPES, arXiv 2308.05600).

Above 1, p puts levels closer together near 0, where bell-shaped weights are.  The paper's exponent
a, of what is rounded to the nearest integer, is 1/p; here values go to the nearest level instead,
which never loses more.  A family: each weight has a p of its own.
"""

from __future__ import annotations

import numpy as np

from bitfold.runtime.formats.format import Format
from bitfold.runtime.formats.whole import whole_levels

POWERS = tuple(np.arange(7, 17) / 8)
"""Values of p to choose from: 0.875 to 2 (a from 1.14 to 0.5)."""


def power_exponent(bits: int, p: float = 1.5) -> Format:
    """The member of the family ``power{bits}`` with exponent ``p``, in whole levels within int8."""
    half = 1 << (bits - 1)
    k = np.arange(-half, half)
    levels = whole_levels(np.sign(k) * np.abs(k) ** p)
    return Format(f"power{bits}^{p:g}", bits, levels, linear=False)
