"""Weights on a grid are found, to the last bit; others are not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitfold.passes.quantize.grid import find_grid, runs_of
from bitfold.passes.quantize.rounding import QuantizedWeight
from bitfold.passes.quantize.steps import find_steps
from bitfold.runtime.formats import format_named

RNG = np.random.default_rng(0)


def found(weight: np.ndarray, **options) -> QuantizedWeight:
    grid = find_grid(weight, **options)
    assert grid is not None
    assert np.array_equal(grid.dequantize(), weight)
    assert grid.codes.max() < 1 << grid.scheme.number.bits
    return grid


@settings(deadline=None, max_examples=40)
@given(
    name=st.sampled_from(["binary", "ternary", *(f"int{bits}" for bits in range(2, 9))]),
    n=st.integers(1, 20),
    group=st.sampled_from([0, 16, 32, 48]),
    k=st.integers(32, 150),
    shifted=st.booleans(),
    exponent=st.integers(-30, 20),
    seed=st.integers(0, 99),
)
def test_products_of_steps_and_units_are_found(name, n, group, k, shifted, exponent, seed):
    """Units are any float32, so that most products are rounded."""
    rng = np.random.default_rng(seed)
    number, size = format_named(name), group or k
    k = k if group != 48 else 48 * (k // 48 or 1)  # others than powers of two divide rows
    groups = -(-k // size)
    unit = np.ldexp(rng.uniform(1, 2, (n, groups)), exponent).astype(np.float32)
    levels = rng.choice(number.levels, (n, k)).astype(np.float32)
    if shifted and number.name.startswith("int"):
        levels -= np.repeat(rng.choice(number.levels, (n, groups)), size, 1)[:, :k]
    grid = found(np.repeat(unit, size, 1)[:, :k] * levels)
    assert grid.scheme.number.bits <= number.bits
    assert grid.group_size >= size or k <= size


@pytest.mark.parametrize("name", ["odd2", "pot3", "odd3", "fp4", "odd4", "pot4", "fp6_e2m3"])
def test_uneven_levels_take_their_own_format(name):
    number = format_named(name)
    weight = RNG.choice(np.float32(number.levels), (8, 320)) * np.float32(0.3)
    assert found(weight).scheme.format == name


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 999), st.integers(1, 9), st.integers(3, 70))
def test_random_floats_lie_on_no_grid(seed, n, k):
    weight = np.random.default_rng(seed).standard_normal((n, k)).astype(np.float32)
    assert find_grid(weight, most_bits=4) is None
    assert k < 6 or find_grid(weight) is None


def test_one_other_value_is_enough():
    weight = RNG.integers(-1, 2, (64, 96)).astype(np.float32) * np.float32(0.07)
    assert find_grid(weight) is not None
    weight[40, 50] = np.nextafter(weight[40, 51] or np.float32(0.07), np.float32(1))
    assert find_grid(weight, most_bits=4) is None


def test_a_value_one_bit_off_its_product_is_no_step():
    steps = np.array([[[1, 3, 5, 7, 11, 13]]], np.float32)
    exact = steps * np.float32(0.1)
    assert find_steps(exact, 15) is not None
    for place in range(1, 6):
        moved = exact.copy()
        moved[0, 0, place] = np.nextafter(moved[0, 0, place], np.float32(9))
        steps = find_steps(moved, 15)
        # One unit may still round to both, but then it gives them back.
        if steps is not None:
            assert np.array_equal(steps.unit[..., None] * steps.step, moved)
    moved[0, 0, 5] = np.nextafter(exact[0, 0, 5] * np.float32(1 + 1e-6), np.float32(9))
    assert find_steps(moved, 15) is None


def test_scales_are_as_narrow_as_they_can_be():
    steps = RNG.integers(-8, 8, (16, 64)).astype(np.float32)
    assert found(steps * np.float32(0.375)).scheme.scale == "f16"
    # 2**-40 is no float16.
    assert found(steps * np.float32(2.0**-40)).scheme.scale == "bf16"
    assert found(steps * np.float32(0.1)).scheme.scale == "f32"


def test_the_largest_level_may_be_on_either_side():
    steps = np.arange(-8, 8, dtype=np.float32).repeat(4)
    weight = np.stack([steps, -steps])
    grid = found(weight)
    assert (grid.scheme.format, grid.zero_points) == ("int4", None)
    assert grid.scales.tolist() == [[1], [-1]]


def test_values_on_one_side_take_a_zero_point():
    grid = found(np.arange(16, dtype=np.float32).repeat(2)[None] * np.float32(0.1))
    assert grid.scheme.format == "int4"
    assert grid.zero_points.tolist() == [[-8]]


def test_groups_of_zeros():
    weight = np.zeros((4, 64), np.float32)
    assert found(weight).scheme.format == "binary"
    weight[1:, :32] = np.where(RNG.random((3, 32)) < 0.5, -1, 1) * np.float32(0.3)
    assert found(weight).scheme.format == "ternary"
    weight[1:, 32:] = -weight[1:, :32]
    assert found(weight).scheme.format == "binary"  # the first row's scale is 0


def test_a_scale_for_each_value_is_no_grid():
    assert find_grid(RNG.standard_normal((64, 1)).astype(np.float32)) is None
    assert find_grid(RNG.integers(1, 9, (64, 1)).astype(np.float32)) is not None


def test_runs():
    assert runs_of(80) == [80, 64, 32, 16]
    assert runs_of(80, whole=True) == [80, 16]
    assert runs_of(10) == [10]
    weight = np.repeat(RNG.uniform(1, 2, (4, 2)).astype(np.float32), 64, 1)[:, :80]
    assert found(weight).group_size == 64
    assert found(weight, whole_runs=True).group_size == 16
