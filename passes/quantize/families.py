"""Formats whose levels are found for each weight: which member of a family suits it best."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from bitfold.passes.quantize.finders import finder
from bitfold.passes.quantize.learned_levels import learned_levels
from bitfold.passes.quantize.ranges import levels_in
from bitfold.passes.quantize.rounding import grouped_rows
from bitfold.runtime.formats import FAMILIES, Format
from bitfold.runtime.formats.power_exponent import POWERS, power_exponent
from bitfold.runtime.formats.scheme import WeightScheme
from bitfold.runtime.formats.whole import whole_levels

SAMPLE = 1 << 16
"""Weights that a member is chosen by, about: rows spread over all of them."""


def with_member(
    scheme: WeightScheme, rows: np.ndarray, energy: np.ndarray | None, ranges: str
) -> WeightScheme:
    """The scheme with the member of its family that suits a weight; others stay as they are.

    Args:
        rows: the weight, as rows [R, C] whose groups are whole.
        energy: the mean square of the inputs [C] or [R', C] (repeated) that meet them, if known:
            what an error there costs.
        ranges: how ranges are found.
    """
    if scheme.format not in FAMILIES or scheme.member is not None:
        return scheme
    step = max(1, rows.size // SAMPLE)
    size = scheme.group_size(rows.shape[1])
    grouped = grouped_rows(np.asarray(rows[::step], np.float32), size)
    if energy is None:
        cost = np.ones(grouped.shape, np.float32)
    else:
        every = np.resize(energy, rows.shape)[::step]
        cost = grouped_rows(every.astype(np.float32), size)
    find = MEMBERS[scheme.format.rstrip("0123456789")]
    return replace(scheme, member=find(grouped, cost, scheme, ranges))


def best_power(grouped: np.ndarray, cost: np.ndarray, scheme: WeightScheme, ranges: str) -> Format:
    """The power-exponent code of the least squared error, of all exponents in ``POWERS``.

    The paper finds one exponent for a whole network, or learns it with the weights; this is its
    search, weight by weight (NUPES, arXiv 2308.05600, section 3).
    """
    bits = scheme.number.bits
    tried = [power_exponent(bits, p) for p in POWERS]
    return min(tried, key=lambda number: lost(grouped, cost, number, scheme, ranges))


def best_learned(
    grouped: np.ndarray, cost: np.ndarray, scheme: WeightScheme, ranges: str
) -> Format:
    """Levels learned by k-means from two starts, even about 0 or not; what loses less."""
    bits, tried = scheme.number.bits, []
    for start in (power_exponent(bits, 1.25), FAMILIES[scheme.format]):
        levels = learned_levels(grouped, cost, start, scheme, ranges)
        tried.append(Format(scheme.format, bits, whole_levels(levels), linear=False))
    return min(tried, key=lambda number: lost(grouped, cost, number, scheme, ranges))


def lost(
    grouped: np.ndarray, cost: np.ndarray, number: Format, scheme: WeightScheme, ranges: str
) -> float:
    """Squared error, each times its ``cost``, of rounding groups [N, G, size] to a format."""
    found = finder(scheme, ranges)(grouped, number, scheme.symmetric)
    error = grouped - levels_in(grouped, number, found) * found.scale[..., None]
    return float((cost * error * error).sum(dtype=np.float64))


MEMBERS: dict[str, Callable[[np.ndarray, np.ndarray, WeightScheme, str], Format]] = {
    "power": best_power,
    "learned": best_learned,
}
"""For each family, by its name without the bits, how a member is found."""
