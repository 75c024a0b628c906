"""Ranges for normally distributed values: the paper's constants, and a search over samples."""

from __future__ import annotations

import numpy as np
import pytest

from bitfold.passes.quantize.gaussian_ranges import standard_scale
from bitfold.passes.quantize.rounding import round_to_nearest
from bitfold.runtime.formats import format_named
from bitfold.runtime.formats.scheme import WeightScheme

VALUES = np.random.default_rng(0).standard_normal((4, 1 << 14)).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "reach"),
    list(
        {
            "binary": 0.79788,
            "ternary": 1.22401,
            "odd2": 1.49353,
            "odd3": 2.05107,
            "odd4": 2.51393,
        }.items()
    ),
)
def test_the_constants_of_quest(name: str, reach: float) -> None:
    """Where its grids end, in standard deviations."""
    number = format_named(name)
    assert number.highest * standard_scale(number) == pytest.approx(reach, rel=1e-4)


def test_centred_integers_are_odd_ones() -> None:
    int4, odd4 = format_named("int4"), format_named("odd4")
    assert standard_scale(int4, centred=True) == pytest.approx(2 * standard_scale(odd4), rel=1e-5)


@pytest.mark.parametrize("name", ["int4", "gauss3", "pot4", "fp4", "int2"])
def test_no_other_scale_loses_less(name: str) -> None:
    number = format_named(name)
    best = standard_scale(number)

    def lost(scale: float) -> float:
        return float(np.square(VALUES - scale * number.nearest(VALUES / scale)).mean())

    tried = [lost(best * factor) for factor in np.geomspace(0.5, 2, 41)]
    assert lost(best) <= 1.01 * min(tried)  # what the sample tells


@pytest.mark.parametrize(
    "scheme",
    [
        WeightScheme("odd3"),
        WeightScheme("int4"),
        WeightScheme("int4", 0, False),
        WeightScheme("int4", 64, scale="e8m0"),
        WeightScheme("int3", 64, False, "e8m0"),
    ],
    ids=str,
)
def test_as_good_as_a_search_on_what_is_normal(scheme: WeightScheme) -> None:
    weight = 0.3 * VALUES[:, :4096]
    if not scheme.symmetric:
        weight = weight + np.float32(0.2)

    def lost(ranges: str) -> float:
        return float(
            np.square(round_to_nearest(weight, scheme, ranges).dequantize() - weight).sum()
        )

    # A group of 64 tells its deviation to a tenth, and powers of two are coarse.
    assert lost("gauss") < (1.35 if scheme.group else 1.03) * lost("mse")
    assert scheme.group or lost("gauss") < 0.9 * lost("minmax")


def test_zeros_stay_zeros() -> None:
    for symmetric in (True, False):
        scheme = WeightScheme("int4", 32, symmetric)
        assert not round_to_nearest(np.zeros((2, 64)), scheme, "gauss").dequantize().any()
