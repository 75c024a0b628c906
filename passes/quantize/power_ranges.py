"""Ranges whose scales are powers of two, as MX formats have them (OCP Microscaling v1.0)."""

from __future__ import annotations

import numpy as np

from bitfold.passes.quantize.ranges import (
    Finder,
    Range,
    least_squares_ranges,
    levels_in,
    min_max_ranges,
)
from bitfold.runtime.formats import Format


def covering_powers(grouped: np.ndarray, number: Format, symmetric: bool) -> Range:
    """The smallest ranges that cover every value of each group [N, G, size]."""
    found = positive(min_max_ranges(grouped, number, symmetric), number)
    mantissa, exponent = np.frexp(found.scale)
    return rescaled(found, np.ldexp(np.float32(1), exponent - (mantissa == 0.5)), number)


def least_squares_powers(grouped: np.ndarray, number: Format, symmetric: bool) -> Range:
    """Of the powers below and above the least-squares scale, and the next one up, the best.

    That one more is tried is for formats with more levels below zero than above, whose
    least-squares scale may be negative, which a power of two is not.
    """
    found = positive(least_squares_ranges(grouped, number, symmetric), number)
    _, exponent = np.frexp(found.scale)
    best, least = found, np.full(found.scale.shape, np.inf, np.float32)
    for more in (-1, 0, 1):
        tried = rescaled(found, np.ldexp(np.float32(1), exponent + more), number)
        error = grouped - levels_in(grouped, number, tried) * tried.scale[..., None]
        lost = (error**2).sum(-1)
        better = lost < least
        least = np.where(better, lost, least)
        best = Range(
            np.where(better, tried.scale, best.scale), np.where(better, tried.zero, best.zero)
        )
    return best


def next_powers(find: Finder) -> Finder:
    """What finds the powers of two nearest to the scales that ``find`` finds."""

    def finder(grouped: np.ndarray, number: Format, symmetric: bool) -> Range:
        found = positive(find(grouped, number, symmetric), number)
        exponent = np.rint(np.log2(np.where(found.scale > 0, found.scale, 1)))
        return rescaled(found, np.ldexp(np.float32(1), exponent.astype(np.int32)), number)

    return finder


def positive(found: Range, number: Format) -> Range:
    """The same ranges with positive scales, wide enough for what a negative one reached."""
    reach = np.where(found.scale < 0, number.lowest / number.highest, 1).astype(np.float32)
    return Range(found.scale * reach, found.zero)


def rescaled(found: Range, scale: np.ndarray, number: Format) -> Range:
    """Ranges about the same middle in other scales; those of groups of zeros stay 0."""
    middle = (number.lowest + number.highest) / 2
    ratio = found.scale / scale
    zero = np.rint(middle - (middle - found.zero) * ratio)
    zero = np.where(found.zero == 0, 0, np.clip(zero, number.lowest, number.highest))
    return Range(np.where(found.scale == 0, 0, scale), zero.astype(np.float32))
