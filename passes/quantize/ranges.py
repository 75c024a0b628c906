"""Choose each group's range: the scale and zero point that its codes are relative to.

A range maps a level v to ``scale * (v - zero)``.  Groups come as an array [N, G, size];
scales and zero points are [N, G].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from bitfold.runtime.formats import Format

CUT = 0.001
"""Share of the values that a percentile cuts off at each end."""


@dataclass(frozen=True)
class Range:
    """Scales [N, G] and integral zero points [N, G] of groups of values."""

    scale: np.ndarray
    zero: np.ndarray


Finder = Callable[[np.ndarray, Format, bool], Range]
"""From groups [N, G, size], a format, and whether there are no zero points."""


def clips(number: Format) -> np.ndarray:
    """Shares of the min-max range that the least-squares search tries.

    The fewer the levels, the more it pays to clip: a ternary code does best near a third of
    the largest magnitude.
    """
    lowest = 0.5 if len(number.levels) > 4 else 0.2
    return np.linspace(1.0, lowest, 13, dtype=np.float32)


def inverse_of(scale: np.ndarray) -> np.ndarray:
    """1 / scale; 0 for a scale of 0, or one so small that its inverse overflows."""
    normal = np.abs(scale) >= np.finfo(np.float32).tiny
    return np.divide(1.0, scale, out=np.zeros_like(scale), where=normal)


def min_max_ranges(grouped: np.ndarray, number: Format, symmetric: bool) -> Range:
    """Ranges that cover every value of each group.

    Symmetric two's-complement formats have one level more below zero than above.  The sign of
    the scale is chosen so that this level goes to the group's largest magnitude, as in
    llama.cpp's Q4_0, which wins up to half a step over fitting the magnitude to both sides.
    """
    low, high = grouped.min(-1), grouped.max(-1)
    if symmetric:
        return _symmetric(low, high, number)
    low, high = np.minimum(low, 0), np.maximum(high, 0)
    return _asymmetric(low, high, number)


def least_squares_ranges(grouped: np.ndarray, number: Format, symmetric: bool) -> Range:
    """Ranges that lose the least squared error, of clipped min-max ranges refined in closed form.

    Each candidate clips the min-max range to a share in :func:`clips`; given the codes that it
    leads to, the best scale is the least-squares fit of the values to the levels, and replaces
    the candidate's own where that is better.
    """
    low, high = grouped.min(-1), grouped.max(-1)
    if not symmetric:
        low, high = np.minimum(low, 0), np.maximum(high, 0)
    best = _symmetric(low, high, number) if symmetric else _asymmetric(low, high, number)
    best_scale, best_zero = best.scale.copy(), best.zero.copy()
    best_error = np.full(low.shape, np.inf, np.float32)
    for tried in clipped_ranges(grouped, number, symmetric):
        levels = levels_in(grouped, number, tried)
        fitted = _fit(grouped, levels, tried.scale)
        error = ((grouped - levels * fitted[..., None]) ** 2).sum(-1)
        better = error < best_error
        best_error = np.where(better, error, best_error)
        best_scale = np.where(better, fitted, best_scale)
        best_zero = np.where(better, tried.zero, best_zero)
    return Range(best_scale, best_zero)


def percentile_ranges(grouped: np.ndarray, number: Format, symmetric: bool) -> Range:
    """Ranges that cut off the :data:`CUT` lowest and highest of each group's values.

    Between values their quantile is taken linearly.  Meant for a scale per output channel: of 32
    values, not one is cut off whole (Wu et al., arXiv 2004.09602, section 3.2, for activations; A
    Survey of Quantization Methods, arXiv 2103.13630, section III-B).
    """
    low, high = np.quantile(grouped, [CUT, 1 - CUT], axis=-1).astype(np.float32)
    if symmetric:
        return _symmetric(low, high, number)
    return _asymmetric(np.minimum(low, 0), np.maximum(high, 0), number)


def clipped_ranges(grouped: np.ndarray, number: Format, symmetric: bool) -> Iterator[Range]:
    """The min-max ranges of each group, clipped to each of the shares in :func:`clips`."""
    low, high = grouped.min(-1), grouped.max(-1)
    if not symmetric:
        low, high = np.minimum(low, 0), np.maximum(high, 0)
    for clip in clips(number):
        yield from _candidates(low * clip, high * clip, number, symmetric)


def _candidates(low: np.ndarray, high: np.ndarray, number: Format, symmetric: bool) -> list[Range]:
    if not symmetric:
        return [_asymmetric(low, high, number)]
    found = _symmetric(low, high, number)
    if number.highest == -number.lowest:
        return [found]  # what fits one sign fits the other
    return [found, Range(-found.scale, found.zero)]


def _symmetric(low: np.ndarray, high: np.ndarray, number: Format) -> Range:
    if number.highest == -number.lowest:
        scale = np.maximum(-low, high) / np.float32(number.highest)
    else:
        scale = np.where(-low > high, low, high) / np.float32(number.lowest)
    return Range(scale, np.zeros_like(low))


def _asymmetric(low: np.ndarray, high: np.ndarray, number: Format) -> Range:
    scale = (high - low) / np.float32(number.highest - number.lowest)
    inverse = inverse_of(scale)
    zero = np.clip(np.rint(number.lowest - low * inverse), number.lowest, number.highest)
    return Range(scale, zero)


def levels_in(grouped: np.ndarray, number: Format, tried: Range) -> np.ndarray:
    """Levels relative to the zero point, float32 [N, G, size]."""
    scale = tried.scale[..., None]
    zero = tried.zero[..., None]
    inverse = inverse_of(scale)
    return number.nearest(grouped * inverse + zero) - zero


def _fit(grouped: np.ndarray, levels: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    """The scale [N, G] that fits ``levels`` to ``grouped`` with the least squared error."""
    weight = (levels * levels).sum(-1)
    fitted = np.divide(
        (grouped * levels).sum(-1), weight, out=np.zeros_like(weight), where=weight > 0
    )
    return np.where(weight > 0, fitted, otherwise)
