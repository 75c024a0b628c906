"""Whole numbers within int8 that stand for any levels: int8 inputs can be multiplied by them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LARGEST = range(64, 128)
"""What the largest magnitude may become."""


def whole_levels(values: Sequence[float] | np.ndarray) -> tuple[int, ...]:
    """The integers nearest to ``values`` times a factor; of all factors, the one that fits best.

    The largest magnitude becomes one of :data:`LARGEST`, so that a level is off by at most 1/128
    of it; values that lie closer become one level.

    Args:
        values: any number of floats, in any order, not all of them 0.

    Returns:
        Distinct levels, in increasing order.
    """
    ratios = np.asarray(values, np.float64) / np.abs(values).max()
    tried = np.array(LARGEST, np.float64)[:, None]
    lost = np.square(np.rint(tried * ratios) / tried - ratios).sum(1)
    # Of factors that fit alike, within what float arithmetic can tell, the smallest.
    best = int(np.flatnonzero(lost <= lost.min() + 1e-12)[0])
    return tuple(int(level) for level in np.unique(np.rint(tried[best] * ratios)))
