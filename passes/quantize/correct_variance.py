"""Give a rounded weight's outputs the variance that they had."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bitfold.passes.quantize.piece import Piece
from bitfold.passes.quantize.weight_sum import WeightSum

MOST = 1.25
"""Factor by which an output is scaled at most: beyond it, it is its rounding that is at fault."""

PLAIN = (np.dtype(np.float16), np.dtype(np.float32))
"""Types of scales that take any factor."""


def variance_gain(
    weight: np.ndarray, rounded: np.ndarray, gram: np.ndarray, mean: np.ndarray
) -> np.ndarray:
    """What each output of ``rounded`` [N, K] is multiplied by to vary as that of ``weight``, [N].

    Rounding adds to an output's variance, or takes from it, channel by channel, and what follows
    was trained for neither.  Where a BatchNormalization is there, its statistics are estimated anew
    (AdaQuant: Hubara et al., arXiv 2006.10518, section 4, "batch-norm tuning"); folded, it is a
    factor of the channel's scales and a shift of its bias.  Here both are told by the inputs'
    second moments H and means m: an output w varies by ``w (H - m m^T) w^T``.

    It may gain where codes were fitted to the outputs, whose variance then shrinks, and was found
    to lose where they were rounded to nearest.

    Args:
        gram: H, the mean of ``x x^T`` over the inputs, f64[K, K].
        mean: m, f64[K].
    """
    covariance = gram - np.outer(mean, mean)
    before, after = (
        (wide * (wide @ covariance)).sum(1)
        for wide in (weight.astype(np.float64), rounded.astype(np.float64))
    )
    known = (before > 0) & (after > 0)
    ratio = np.divide(before, after, out=np.ones_like(before), where=known)
    return np.clip(np.sqrt(ratio), 1 / MOST, MOST)


def with_variance(piece: Piece, rounded: WeightSum, mean: np.ndarray) -> WeightSum | None:
    """What a piece was rounded to, scaled so that its outputs vary as before.

    Args:
        mean: of each channel that it reads.

    Returns:
        None where its inputs are not known, it is looked up too, its scales take no factors, or
        other parts than scales and codes would have to.
    """
    codes = rounded.codes.with_rows(piece.shape[0])
    if piece.gram is None or not (piece.matmuls or piece.conv):
        return None
    if codes.scales.dtype not in PLAIN or codes.plus is not None or rounded.branch is not None:
        return None
    weight = piece.rows.reshape(piece.shape)
    each = np.tile(mean, weight.shape[1] // len(mean))  # columns are (tap, channel)
    gain = variance_gain(weight, rounded.dequantize().reshape(piece.shape), piece.gram, each)
    scales = (codes.scales.astype(np.float64) * gain[:, None]).astype(codes.scales.dtype)
    return replace(rounded, codes=replace(codes, scales=scales))
