"""Ranges whose rounded values are distributed most like the values: least relative entropy."""

from __future__ import annotations

import numpy as np

from bitfold.passes.quantize.ranges import Range, clipped_ranges, levels_in
from bitfold.runtime.formats import Format

BINS = 16
"""Bins of the histogram for each level of the format."""


def entropy_ranges(grouped: np.ndarray, number: Format, symmetric: bool) -> Range:
    """Of clipped min-max ranges, those of the least relative entropy (Kullback-Leibler divergence).

    Compared are two histograms: of all values, those cut off counted at the ends, and of the values
    that are not, each level's share spread evenly over its occupied bins (Migacz, 8-bit Inference
    with TensorRT, 2017; among others in Wu et al., arXiv 2004.09602).  Meant for a scale per output
    channel: a group of 32 leaves most bins with one value or none, and is hardly ever clipped.
    """
    low, high = grouped.min(-1, keepdims=True), grouped.max(-1, keepdims=True)
    count = BINS * len(number.levels)
    width = np.where(high > low, high - low, 1) / np.float32(count)
    bins = np.clip((grouped - low) / width, 0, count - 1).astype(np.intp)
    centres = low + (np.arange(count, dtype=np.float32) + np.float32(0.5)) * width
    histogram = counted(bins, np.ones(bins.shape), count)
    levels = np.array(number.levels, np.float32)
    reach = np.float32(np.diff(levels).max() / 2)
    least = np.full(low.shape[:-1], np.inf)
    scale, zero = np.zeros(least.shape, np.float32), np.zeros(least.shape, np.float32)
    for tried in clipped_ranges(grouped, number, symmetric):
        near = levels_in(centres, number, tried)
        step = tried.scale[..., None]
        inside = np.abs(centres - near * step) <= np.abs(step) * reach
        entropy = relative_entropy(
            histogram, inside, np.searchsorted(levels, near + tried.zero[..., None]), len(levels)
        )
        better = entropy < least
        least = np.where(better, entropy, least)
        scale, zero = np.where(better, tried.scale, scale), np.where(better, tried.zero, zero)
    return Range(scale, zero)


def relative_entropy(
    histogram: np.ndarray, inside: np.ndarray, nearest: np.ndarray, levels: int
) -> np.ndarray:
    """Divergence [N, G], in nats, of histograms [N, G, B] from what rounding leaves of them.

    Args:
        inside: which bins are not cut off; a run of them.
        nearest: the place of the level that each bin goes to.
        levels: how many of these there are.
    """
    kept = histogram * inside
    places = np.arange(histogram.shape[-1])
    first = inside.argmax(-1)[..., None]
    last = len(places) - 1 - inside[..., ::-1].argmax(-1)[..., None]
    below = (histogram * (places < first)).sum(-1, keepdims=True)
    above = (histogram * (places > last)).sum(-1, keepdims=True)
    values = kept + below * (places == first) + above * (places == last)
    mass = counted(nearest, kept, levels)
    bins = counted(nearest, kept > 0, levels)
    even = np.divide(mass, bins, out=np.zeros_like(mass), where=bins > 0)
    rounded = np.take_along_axis(even, nearest, -1) * (kept > 0)
    p = values / np.maximum(values.sum(-1, keepdims=True), 1)
    # Where only what was cut off is, nothing is left of it: a small share stands for none.
    q = np.maximum(rounded / np.maximum(rounded.sum(-1, keepdims=True), 1), 1e-9)
    found: np.ndarray = (p * np.log(np.where(p > 0, p, 1) / np.where(p > 0, q, 1))).sum(-1)
    return found


def counted(places: np.ndarray, amounts: np.ndarray, size: int) -> np.ndarray:
    """Sums [N, G, size] of ``amounts`` [N, G, B] by their ``places`` [N, G, B] below ``size``."""
    n, groups, _ = places.shape
    rows = np.arange(n * groups).reshape(n, groups, 1) * size
    sums = np.bincount((rows + places).ravel(), amounts.ravel(), n * groups * size)
    return sums.reshape(n, groups, size)
