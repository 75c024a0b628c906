"""Take what rounding a convolution's weight adds to its mean output back from its bias."""

from __future__ import annotations

import numpy as np

from bitfold.passes.analysis.conv_shape import ConvShape
from bitfold.passes.analysis.sites import Site, input_at
from bitfold.passes.core.context import Context
from bitfold.passes.core.rewire import add_bias, constant


def mean_shift(lost: np.ndarray, conv: ConvShape, means: np.ndarray) -> np.ndarray:
    """What a convolution's mean output loses with ``lost`` of its weight, f64[n].

    Behind an activation the inputs are far from zero in the mean, and the errors of an output's
    many weights add up to a shift that is the same for every pixel (Nagel et al., 2019,
    arXiv 1906.04721, section 4.2).

    Args:
        lost: weight less rounded weight, [n, k], columns (tap, channel).
        conv: the weight's shape.
        means: mean of each input channel, [channels].
    """
    by_channel = lost.reshape(conv.n, conv.taps, conv.cg).sum(1, dtype=np.float64)
    grouped = by_channel.reshape(conv.groups, conv.n // conv.groups, conv.cg)
    shift: np.ndarray = np.einsum("gnc,gc->gn", grouped, means.reshape(conv.groups, conv.cg))
    return shift.reshape(-1)


def correct_bias(site: Site, lost: np.ndarray, means: np.ndarray, context: Context) -> bool:
    """Add the mean shift to the convolution's bias; return whether that could be done.

    It cannot where the bias is computed, or where it would not be finite in float32.
    """
    assert site.conv is not None, "the site is a convolution"
    bias = input_at(site.node, 2)
    before = constant(bias)
    if bias is not None and before is None:
        return False
    shift = mean_shift(lost, site.conv, means)
    total = shift if before is None else shift + before
    if not (np.abs(total) <= np.finfo(np.float32).max).all():
        return False
    add_bias(site.node, shift, context)
    return True
