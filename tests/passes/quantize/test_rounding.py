"""Weight rounding against exhaustive search and known answers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitfold.passes.quantize.rounding import round_to_nearest
from bitfold.runtime.formats.scale_types import scale_values
from bitfold.runtime.formats.scheme import WeightScheme

SCHEMES = [
    WeightScheme(name, group, symmetric)
    for name in ("int8", "int4", "int3", "int2", "ternary")
    for group in (0, 32)
    for symmetric in (True, False)
    if symmetric or name != "ternary"
]
SCHEMES += [
    WeightScheme(name, group)
    for name, group in (("binary", 0), ("nf4", 32), ("fp4", 16), ("fp6_e2m3", 0), ("fp8_e4m3", 64))
]
SCALED = [
    WeightScheme("int4", 32, False, "bf16"),
    WeightScheme("fp4", 32, scale="e8m0"),
    WeightScheme("int4", 32, scale="e8m0"),
    WeightScheme("int4", 16, False, "e8m0"),
    WeightScheme("fp4", 16, scale="e4m3"),
    WeightScheme("int3", 0, scale="e4m3"),
]


def squared_error(weight, quantized):
    return float(np.square(quantized.dequantize() - weight, dtype=np.float64).sum())


@pytest.mark.parametrize("scheme", SCHEMES + SCALED, ids=str)
@pytest.mark.parametrize("ranges", ["minmax", "mse"])
def test_codes_are_the_best_for_their_scales(scheme, ranges):
    weight = np.random.default_rng(1).normal(size=(9, 70)).astype(np.float32)
    found = round_to_nearest(weight, scheme, ranges)
    number, size = scheme.number, found.group_size
    zeros = 0 if found.zero_points is None else np.repeat(found.zero_points, size, 1)[:, :70]
    scales = scale_values(found.scales, found.scale_factor)
    scales = np.repeat(scales, size, 1)[:, :70]
    every = np.array(number.levels, np.float32)
    reachable = scales[..., None] * (every - np.asarray(zeros, np.float32)[..., None])
    best = np.abs(reachable - weight[..., None]).min(-1)
    assert np.allclose(np.abs(found.dequantize() - weight), best, atol=1e-6)


@pytest.mark.parametrize("scheme", SCHEMES + SCALED, ids=str)
def test_least_squares_never_loses_to_min_max(scheme):
    weight = np.random.default_rng(2).standard_t(4, (32, 96)).astype(np.float32)
    covering = squared_error(weight, round_to_nearest(weight, scheme, "minmax"))
    searched = squared_error(weight, round_to_nearest(weight, scheme, "mse"))
    assert searched <= covering * 1.001


def test_least_squares_comes_close_to_exhaustive_search():
    weight = np.random.default_rng(3).normal(size=(1, 32)).astype(np.float32)
    found = squared_error(weight, round_to_nearest(weight, WeightScheme("int3", 32)))
    levels = np.arange(-4, 4)
    scales = np.concatenate([np.linspace(-1.2, -0.05, 4000), np.linspace(0.05, 1.2, 4000)])
    grids = scales[:, None] * levels
    best = min(np.square(np.abs(grid[:, None] - weight[0]).min(0)).sum() for grid in grids)
    assert found <= 1.05 * best


@settings(max_examples=50)
@given(seed=st.integers(0, 2**31), scheme=st.sampled_from(SCHEMES))
def test_weights_on_the_grid_come_back(seed, scheme):
    """A weight that is already low-bit loses nothing (ranges by min-max span the grid)."""
    rng = np.random.default_rng(seed)
    number = scheme.number
    levels = rng.choice(np.array(number.levels, np.float32), (5, 64))
    levels[:, ::16] = number.lowest
    levels[:, 1::16] = number.highest
    weight = levels * np.float32(0.25)
    found = round_to_nearest(weight, scheme, "minmax")
    assert np.allclose(found.dequantize(), weight, atol=1e-3 * abs(number.lowest) * 0.25)


@pytest.mark.parametrize("name", ["fp4", "int4", "int8"])
def test_powers_of_two_cover_every_value_or_lose_the_least(name):
    weight = np.random.default_rng(8).normal(size=(64, 32)).astype(np.float32)
    weight[5] = 0
    covering = round_to_nearest(weight, WeightScheme(name, 32, scale="e8m0"), "minmax")
    scales, number = scale_values(covering.scales), covering.scheme.number
    assert (scales * number.highest >= weight.max(1, keepdims=True)).all()
    assert (scales * number.lowest <= weight.min(1, keepdims=True)).all()
    found = round_to_nearest(weight, WeightScheme(name, 32, scale="e8m0"))
    error = np.square(found.dequantize() - weight).sum(1)
    powers = 2.0 ** np.arange(-9, 3, dtype=np.float32)[:, None, None]
    best = np.square(number.nearest(weight / powers) * powers - weight).sum(2).min(0)
    assert np.allclose(error, best, rtol=1e-4)


def test_mx_weights_on_the_grid_come_back_exactly():
    rng = np.random.default_rng(9)
    levels = rng.choice(np.array(WeightScheme("fp4").number.levels, np.float32), (16, 128))
    levels[:, ::32] = 12
    scales = np.float32(2) ** rng.integers(-20, 20, (16, 4)).repeat(32, 1)
    weight = (levels * scales).astype(np.float32)
    found = round_to_nearest(weight, WeightScheme("fp4", 32, scale="e8m0"))
    assert np.array_equal(found.dequantize(), weight)


def test_binary_weights_get_the_mean_magnitude_as_their_scale():
    """The least-squares scale of signs (XNOR-Net, equation 6)."""
    weight = np.random.default_rng(7).normal(size=(8, 64)).astype(np.float32)
    found = round_to_nearest(weight, WeightScheme("binary", 32, scale="f32"))
    means = np.abs(weight).reshape(8, 2, 32).mean(-1)
    assert np.allclose(found.scales, means, rtol=1e-6)
    assert np.array_equal(found.dequantize() > 0, weight > 0)


def test_zeros_stay_zero_and_large_values_do_not_overflow_the_scale():
    weight = np.zeros((2, 64), np.float32)
    weight[1] = 1e7
    found = round_to_nearest(weight, WeightScheme("int4", 32))
    assert not found.dequantize()[0].any()
    assert np.isfinite(found.dequantize()).all()


def test_rows_do_not_depend_on_each_other():
    """However the weight is cut into blocks of rows, each row's codes are the same."""
    weight = np.random.default_rng(4).normal(size=(3000, 64)).astype(np.float32)
    whole = round_to_nearest(weight, WeightScheme("int4", 32, False))
    part = round_to_nearest(weight[2000:2010], WeightScheme("int4", 32, False))
    assert np.array_equal(whole.codes[2000:2010], part.codes)
    assert np.array_equal(whole.scales[2000:2010], part.scales)


@pytest.mark.parametrize("size", [1e-9, 1e-3, 1.0, 1e9])
def test_scales_that_float16_cannot_hold_are_float32(size):
    weight = np.random.default_rng(5).normal(size=(8, 64)).astype(np.float32) * np.float32(size)
    found = round_to_nearest(weight, WeightScheme("int8", 32))
    assert squared_error(weight, found) < 1e-4 * np.square(weight, dtype=np.float64).sum()
    assert found.scales.dtype == (np.float16 if size in (1e-3, 1.0) else np.float32)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("ranges", ["minmax", "mse"])
def test_values_below_the_normal_numbers_are_zeros(symmetric, ranges):
    weight = np.random.default_rng(6).normal(size=(4, 64)).astype(np.float32)
    weight[1] *= np.float32(1e-41)
    found = round_to_nearest(weight, WeightScheme("int4", 32, symmetric), ranges).dequantize()
    assert np.abs(found[1]).max() < 1e-38
    assert np.isfinite(found).all()
