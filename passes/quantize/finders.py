"""The ways to find ranges: a new one is a file here and a line in ``FINDERS``."""

from __future__ import annotations

from typing import Literal

from bitfold.passes.quantize.entropy_ranges import entropy_ranges
from bitfold.passes.quantize.gaussian_ranges import gaussian_ranges
from bitfold.passes.quantize.power_ranges import covering_powers, least_squares_powers, next_powers
from bitfold.passes.quantize.ranges import (
    Finder,
    least_squares_ranges,
    min_max_ranges,
    percentile_ranges,
)
from bitfold.runtime.formats.scheme import WeightScheme

RangeName = Literal["mse", "minmax", "percentile", "entropy", "gauss"]

FINDERS: dict[str, tuple[Finder, Finder]] = {
    "mse": (least_squares_ranges, least_squares_powers),
    "minmax": (min_max_ranges, covering_powers),
    "percentile": (percentile_ranges, next_powers(percentile_ranges)),
    "entropy": (entropy_ranges, next_powers(entropy_ranges)),
    "gauss": (gaussian_ranges, next_powers(gaussian_ranges)),
}
"""For each way, what finds any scales, and what finds powers of two."""


def finder(scheme: WeightScheme, ranges: str) -> Finder:
    """What finds the ranges of a weight, of such scales as its scheme has."""
    return FINDERS[ranges][scheme.scale == "e8m0"]
