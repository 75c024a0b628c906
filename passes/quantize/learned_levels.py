"""Levels learned from a weight: k-means of its values, each relative to its group's scale."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bitfold.passes.quantize.finders import finder
from bitfold.passes.quantize.ranges import inverse_of
from bitfold.runtime.formats import Format
from bitfold.runtime.formats.scheme import WeightScheme

ROUNDS = 6
"""How often scales are found again for the levels of the round before."""

STEPS = 5
"""Steps of k-means a round."""


def learned_levels(
    grouped: np.ndarray, cost: np.ndarray, start: Format, scheme: WeightScheme, ranges: str
) -> np.ndarray:
    """Levels that lose little on groups [N, G, size], each error times its ``cost``.

    Values relative to their groups' scales are clustered, weighted by what their errors cost: the
    mean square of the inputs that they meet, a diagonal of the Hessian (SqueezeLLM, arXiv
    2306.07629, section 4.1, where that is the Fisher information).  SqueezeLLM has a table of float
    levels for each output channel; here scales do for channels and groups, and the weight has one
    table.

    Args:
        start: a format of as many levels, to start from.

    Returns:
        float64 levels in increasing order, one for each of ``start``.
    """
    levels = np.array(start.levels, np.float64)
    for _ in range(ROUNDS):
        number = replace(start, levels=tuple(levels))
        found = finder(scheme, ranges)(grouped, number, scheme.symmetric)
        scale = np.asarray(found.scale, np.float32)[..., None]
        values = (grouped * inverse_of(scale)).ravel()
        weights = (cost * scale * scale).ravel().astype(np.float64)
        levels = lloyd(values, weights, levels)
    return levels


def lloyd(values: np.ndarray, weights: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """A few steps of weighted k-means in one dimension; a level that nothing is near to stays."""
    for _ in range(STEPS):
        nearest = np.searchsorted((levels[1:] + levels[:-1]) / 2, values)
        mass = np.bincount(nearest, weights, len(levels))
        moment = np.bincount(nearest, weights * values, len(levels))
        levels = np.divide(moment, mass, out=levels.copy(), where=mass > 0)
    return levels
