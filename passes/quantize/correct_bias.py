"""Take what rounding a weight adds to its mean output back from its bias."""

from __future__ import annotations

import numpy as np

from bitfold.passes.analysis.conv_shape import ConvShape
from bitfold.passes.analysis.sites import Site, input_at
from bitfold.passes.core.context import Context
from bitfold.passes.core.rewire import add_bias, bias_add, constant


def mean_shift(lost: np.ndarray, conv: ConvShape | None, means: np.ndarray) -> np.ndarray:
    """What a site's mean output loses with ``lost`` of its weight, f64[n].

    Behind an activation the inputs are far from zero in the mean, and the errors of an output's
    many weights add up to a shift that is the same for every pixel (Nagel et al., 2019,
    arXiv 1906.04721, section 4.2).

    Args:
        lost: weight less rounded weight, [n, k], columns (tap, channel).
        conv: the weight's shape, where it is a convolution's.
        means: mean of each input channel, [channels].
    """
    if conv is None:
        product: np.ndarray = lost.astype(np.float64) @ means
        return product
    by_channel = lost.reshape(conv.n, conv.taps, conv.cg).sum(1, dtype=np.float64)
    grouped = by_channel.reshape(conv.groups, conv.n // conv.groups, conv.cg)
    shift: np.ndarray = np.einsum("gnc,gc->gn", grouped, means.reshape(conv.groups, conv.cg))
    return shift.reshape(-1)


def correct_bias(site: Site, lost: np.ndarray, means: np.ndarray, context: Context) -> bool:
    """Add the mean shift to the site's bias; return whether that could be done.

    It cannot where the bias is computed, or where it would not be finite in float32; nor where a
    matmul has none: one more operator would cost time.
    """
    bias = input_at(site.node, 2)
    if site.kind == "matmul":
        found = bias_add(site.node)
        if found is None:
            return False
        bias = found[0].inputs[found[1]]
    before = constant(bias)
    if (bias is not None or site.conv is None) and before is None:
        return False
    shift = mean_shift(lost, site.conv, means)
    total = shift if before is None else shift + before
    if not (np.abs(total) <= np.finfo(np.float32).max).all():
        return False
    add_bias(site.node, shift, context)
    return True
