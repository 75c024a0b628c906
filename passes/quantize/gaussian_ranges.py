"""Ranges in closed form for values of a normal distribution, as QuEST has them."""

from __future__ import annotations

from functools import cache

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.stats import norm

from bitfold.passes.quantize.ranges import Range, inverse_of
from bitfold.runtime.formats import Format


def gaussian_ranges(grouped: np.ndarray, number: Format, symmetric: bool) -> Range:
    """Ranges that would lose least if each group's values were normally distributed.

    The scale is the group's standard deviation (with zero points: about its mean) times a constant
    of the format; no candidates are tried (QuEST, arXiv 2502.05003, section 3.1).  Meant for
    weights after a Hadamard rotation, and for groups long enough to tell their deviation.
    """
    if symmetric:
        scale = np.sqrt(np.mean(grouped * grouped, -1)) * standard_scale(number)
        return Range(scale, np.zeros_like(scale))
    mean = grouped.mean(-1)
    scale = grouped.std(-1) * standard_scale(number, centred=True)
    middle = np.float32((number.lowest + number.highest) / 2)
    zero = np.rint(middle - mean * inverse_of(scale))
    return Range(scale, np.clip(zero, number.lowest, number.highest))


@cache
def standard_scale(number: Format, centred: bool = False) -> np.float32:
    """The scale that loses the least mean squared error at a standard deviation of 1.

    Args:
        centred: with the levels moved so that 0 is in their middle.
    """
    levels = np.array(number.levels, np.float64)
    if centred:
        levels -= (levels[0] + levels[-1]) / 2
    middles = (levels[1:] + levels[:-1]) / 2

    def error(scale: float) -> float:
        borders = np.array([-np.inf, *(scale * middles), np.inf])
        mass, moment = np.diff(norm.cdf(borders)), -np.diff(norm.pdf(borders))
        return float(1 - 2 * scale * (levels @ moment) + scale**2 * (levels**2 @ mass))

    # Coarsely first: uneven levels may leave several lowest points.
    tried = np.geomspace(0.3, 30, 200) / np.abs(levels).max()
    best = int(np.argmin([error(scale) for scale in tried]))
    bounds = (tried[max(best - 1, 0)], tried[min(best + 1, len(tried) - 1)])
    found = minimize_scalar(error, bounds=bounds, method="bounded", options={"xatol": 1e-9})
    return np.float32(found.x)
