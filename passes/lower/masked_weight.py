"""Which weights are exactly zero, and whether the masked layout is worth it: NumPy, no graph."""

from __future__ import annotations

import math

import numpy as np

from bitfold.passes.lower.neutral import NeutralWeight
from bitfold.runtime.layouts.masked import masked_size
from bitfold.runtime.layouts.tiles import packed_size

LEAST_BITS = 3
"""Narrower codes stay dense: on AVX-512 a row times masked weights of 2 bits, 3/4 of them zero,
takes twice the time of dense ones for 0.8 of the bytes."""


def kept_weights(weight: NeutralWeight) -> np.ndarray | None:
    """Which weights, bool [N, K], are not zero: their level is not their zero point.

    None where the masked layout does not take the weight: its zero points are no levels, or its
    float table has none that is 0.
    """
    zeros, table = weight.zero_points, weight.table
    if not weight.integral:
        assert table is not None, "levels that are no integers are in a table"
        return None if zeros is not None or not (table == 0).any() else table[weight.codes] != 0
    levels = weight.levels()
    if zeros is None:
        return levels != 0
    top = 1 << (weight.bits - 1)
    if table is None and (int(zeros.min()) < -top or int(zeros.max()) >= top):
        return None
    k = levels.shape[1]
    return levels != np.repeat(zeros, weight.group_size, axis=1)[:, :k]


def masked_share(kept: np.ndarray, bits: int) -> float:
    """Bytes of the masked layout as a share of the dense one's, for weights ``kept`` [N, K].

    Infinite where the codes are narrower than ``LEAST_BITS``; 1 or more where even the masks and
    the codes alone would not be smaller.
    """
    n, k = kept.shape
    if bits < LEAST_BITS:
        return math.inf
    least = 1 / bits + int(np.count_nonzero(kept)) / kept.size
    return least if least >= 1 else masked_size(kept, bits) / packed_size(n, k, bits)
