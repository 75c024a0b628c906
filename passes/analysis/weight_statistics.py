"""Statistics of a weight that tell how hard it is to quantize."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BLOCK = 1 << 20
"""Elements looked at at a time, so that a memory-mapped weight is never copied whole."""


@dataclass(frozen=True)
class WeightStatistics:
    """A weight's distribution.

    Attributes:
        low: smallest value.
        high: largest value.
        std: standard deviation.
        kurtosis: fourth standardized moment (a normal distribution has 3).
        outlier_ratio: largest magnitude over the mean magnitude.
        zeros: share of exact zeros.
        finite: whether every value is finite; the others are left out of the statistics.
    """

    low: float
    high: float
    std: float
    kurtosis: float
    outlier_ratio: float
    zeros: float
    finite: bool


def weight_statistics(weight: np.ndarray) -> WeightStatistics:
    """Statistics of an array of any shape, in two passes over blocks of it."""
    rows = weight.reshape(-1, weight.shape[-1]) if weight.ndim > 1 else weight.reshape(1, -1)
    step = max(1, BLOCK // max(1, rows.shape[1]))
    blocks = [slice(start, start + step) for start in range(0, len(rows), step)]
    count = zeros = 0
    total = magnitude = 0.0
    low, high = np.inf, -np.inf
    for block in blocks:
        values = _finite(rows[block])
        if values.size:
            count += values.size
            zeros += int((values == 0).sum())
            total += float(values.sum())
            magnitude += float(np.abs(values).sum())
            low, high = min(low, float(values.min())), max(high, float(values.max()))
    if not count:
        return WeightStatistics(0, 0, 0, 0, 0, 0, finite=not rows.size)
    mean = total / count
    second = fourth = 0.0
    for block in blocks:
        squares = np.square(_finite(rows[block]) - mean)
        second += float(squares.sum())
        fourth += float(np.square(squares).sum())
    variance = second / count
    return WeightStatistics(
        low,
        high,
        float(np.sqrt(variance)),
        fourth / count / variance**2 if variance else 0.0,
        max(-low, high) * count / magnitude if magnitude else 0.0,
        zeros / count,
        finite=count == rows.size,
    )


def _finite(block: np.ndarray) -> np.ndarray:
    values = np.asarray(block, np.float64).ravel()
    return values[np.isfinite(values)]
