"""Round depthwise filters so that the sums of their taps stay: weight math, with no graph."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bitfold.passes.quantize.rounding import QuantizedWeight
from bitfold.runtime.formats.scale_types import scale_values


def keep_sums(weight: np.ndarray, quantized: QuantizedWeight) -> QuantizedWeight:
    """Move a few codes one step so that each row's rounding errors add up to half a step at most.

    A filter's taps see neighbouring pixels, which are nearly alike: what its output loses is the
    *sum* of the taps' rounding errors far more than their squares.  Row by row, as many of the
    codes with the largest error that points along that sum are rounded the other way as it has
    whole steps.  This is the kernel-wise flip of SQuant (arXiv 2202.07471), which needs no data.

    Args:
        weight: the rows [N, K] that were rounded.
        quantized: their codes of a linear format, with one symmetric scale a row.
    """
    if quantized.zero_points is not None or not quantized.scheme.number.linear:
        raise ValueError("only symmetric codes of linear formats can be moved a step")
    number = quantized.scheme.number
    codes = quantized.codes.copy()
    scale = scale_values(quantized.scales, quantized.scale_factor)
    steps = np.divide(weight, scale, out=np.zeros_like(weight, np.float32), where=scale != 0)
    error = number.decode(codes) - steps
    total = error.sum(1)
    direction = -np.sign(total).astype(np.int16)
    moved = codes + direction[:, None]
    possible = (moved >= 0) & (moved < 1 << number.bits) & (scale != 0)
    # How far each error points along the sum: moving the code takes one step off it.
    along = np.where(possible, -error * direction[:, None], -np.inf)
    rank = np.argsort(np.argsort(-along, axis=1, kind="stable"), axis=1, kind="stable")
    flips = (rank < np.rint(np.abs(total))[:, None]) & possible
    return replace(quantized, codes=np.where(flips, moved, codes).astype(np.uint8))
