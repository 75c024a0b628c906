"""AdaDim: scales along a weight's inputs, where its outputs then lose less."""

from __future__ import annotations

import numpy as np

from bitfold.passes.quantize.rounding import round_to_nearest
from bitfold.runtime.formats.scheme import WeightScheme

POWERS = (0.0, 0.5, 1.0)
"""Shares of a column's spread, in powers, that its scale may take; 0 leaves the weight as it is."""

FLATTER = 0.98
"""What scales must bring the loss down to: each one is another multiplication of the input."""


def input_scales(
    weight: np.ndarray, gram: np.ndarray | None, scheme: WeightScheme, ranges: str
) -> np.ndarray | None:
    """Scales of the columns of ``weight`` [N, K], float32 [K]; None where it is better without.

    The groups of a row hold an input channel's outlier beside ordinary values, which its scale then
    drowns; scales along the inputs isolate it.  Which dimension serves a weight is told by what its
    outputs lose (AdaDim: Heo et al., arXiv 2309.15531).  There a scale along the inputs holds for a
    group of outputs, and replaces those of the rows; here it holds for all outputs, as the operator
    is given them, and the groups along the rows stay, so that what the scales leave is theirs.

    Args:
        weight: finite.
        gram: mean of ``x x^T`` over the inputs, f64[K, K]; None if unknown: all count alike.
        scheme: how ``weight / scales`` will be rounded.
        ranges: how ranges are found.
    """
    weight = np.asarray(weight, np.float32)
    spread = np.sqrt(np.mean(np.square(weight, dtype=np.float64), axis=0))
    some = spread > 0
    if not some.any():
        return None
    spread[~some] = np.exp(np.log(spread[some]).mean())
    spread /= np.exp(np.log(spread).mean())
    losses: dict[float, float] = {}
    for power in POWERS:
        scales = (spread**power).astype(np.float32)
        rounded = round_to_nearest(weight / scales, scheme, ranges).dequantize() * scales
        losses[power] = output_loss(weight - rounded, gram)
    best = min(losses, key=losses.__getitem__)
    if losses[best] > FLATTER * losses[0.0]:
        return None
    return (spread**best).astype(np.float32)


def output_loss(lost: np.ndarray, gram: np.ndarray | None) -> float:
    """``tr(lost H lost^T)`` of an error [N, K] of the weight: that of its outputs, squared."""
    wide = lost.astype(np.float64)
    return float((wide * (wide if gram is None else wide @ gram)).sum())
