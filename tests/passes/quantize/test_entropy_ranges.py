"""Ranges by percentile and by entropy: known answers, and what they clip."""

from __future__ import annotations

import numpy as np
import pytest

from bitfold.passes.quantize.entropy_ranges import relative_entropy
from bitfold.passes.quantize.ranges import percentile_ranges
from bitfold.passes.quantize.rounding import round_to_nearest
from bitfold.runtime.formats import format_named
from bitfold.runtime.formats.scale_types import scale_values
from bitfold.runtime.formats.scheme import WeightScheme

RNG = np.random.default_rng(0)
HEAVY = RNG.standard_t(3, (6, 4096)).astype(np.float32)


def lost(scheme: WeightScheme, ranges: str) -> float:
    return float(np.square(round_to_nearest(HEAVY, scheme, ranges).dequantize() - HEAVY).sum())


def test_relative_entropy_of_a_histogram() -> None:
    """Six bins of which the last is cut off; two levels, of two bins and of three."""
    histogram = np.array([[[3.0, 1, 0, 2, 4, 2]]])
    inside = np.array([[[True, True, True, True, True, False]]])
    nearest = np.array([[[0, 0, 1, 1, 1, 1]]])
    p = np.array([3, 1, 2, 6]) / 12
    q = np.array([2, 2, 3, 3]) / 10
    found = relative_entropy(histogram, inside, nearest, 2)
    assert found.shape == (1, 1)
    assert found[0, 0] == pytest.approx((p * np.log(p / q)).sum())


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_percentile_is_what_is_covered(symmetric: bool) -> None:
    values = np.linspace(-1, 3, 4001, dtype=np.float32)[None, None]
    found = percentile_ranges(values, format_named("int4"), symmetric)
    low, high = (found.scale * (level - found.zero) for level in (-8, 7))
    if symmetric:
        assert low == pytest.approx(2.996, abs=1e-3)  # the extra level goes to the larger side
    else:
        assert high - low == pytest.approx(3.992, abs=1e-3)


@pytest.mark.parametrize(
    "scheme",
    [
        WeightScheme("int4"),
        WeightScheme("int4", 0, False),
        WeightScheme("fp4", scale="e8m0"),
        WeightScheme("nf4"),
    ],
    ids=str,
)
def test_heavy_tails_are_clipped(scheme: WeightScheme) -> None:
    covering = lost(scheme, "minmax")
    assert lost(scheme, "percentile") < 0.7 * covering
    assert lost(scheme, "entropy") < 0.7 * covering


def test_few_values_and_even_ones_are_covered() -> None:
    """A uniform distribution is best kept whole, as is a group of few values."""
    scheme = WeightScheme("int4", 0, False, "f32")
    even = np.tile(np.linspace(-1, 1, 4096, dtype=np.float32), (3, 1))
    few = WeightScheme("int4", 16, False, "f32")
    for weight, each in ((even, scheme), (RNG.standard_normal((64, 16)), few)):
        kept = scale_values(round_to_nearest(weight, each, "entropy").scales)
        whole = scale_values(round_to_nearest(weight, each, "minmax").scales)
        assert np.mean(np.isclose(kept, whole)) > 0.9


def test_zeros() -> None:
    for ranges in ("percentile", "entropy"):
        found = round_to_nearest(np.zeros((2, 64), np.float32), WeightScheme("int4"), ranges)
        assert not found.dequantize().any()
