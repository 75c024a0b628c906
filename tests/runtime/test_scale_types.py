"""Types of scales: known answers of each, and rounding to the nearest."""

import ml_dtypes
import numpy as np
import pytest

from bitfold.runtime.formats.scale_types import DTYPES, scale_values, store_scales


def test_exponents_stand_for_powers_of_two():
    fields = np.array([0, 1, 127, 128, 254], np.uint8)
    assert scale_values(fields).tolist() == [2.0**-127, 2.0**-126, 1, 2, 2.0**127]
    again = store_scales(scale_values(np.arange(255, dtype=np.uint8)), "e8m0")
    assert np.array_equal(again.array, np.arange(255))
    nearest = store_scales(np.array([1.41, 1.42, 3.0, 0.0, 1e-45, 3e38], np.float32), "e8m0")
    assert nearest.values().tolist() == [1, 2, 4, 2.0**-127, 2.0**-127, 2.0**127]


def test_e8m0_agrees_with_its_standard():
    every = np.arange(255, dtype=np.uint8)
    standard = every.view(ml_dtypes.float8_e8m0fnu).astype(np.float32)
    assert np.array_equal(scale_values(every), standard)


def test_e4m3_scales_reach_their_largest_number():
    """NVFP4's tensor scale maps the largest block scale to 448."""
    scales = np.random.default_rng(0).uniform(1e-3, 2e-2, 1000).astype(np.float32)
    stored = store_scales(scales, "e4m3")
    assert stored.array.astype(np.float32).max() == 448
    assert np.isclose(stored.factor, scales.max() / 448, rtol=1e-6)
    assert np.abs(stored.values() / scales - 1).max() <= 1 / 16
    assert store_scales(np.zeros(3, np.float32), "e4m3").values().tolist() == [0, 0, 0]


@pytest.mark.parametrize("kind", ["f16", "bf16", "f32", "e4m3"])
def test_scales_are_rounded_to_the_nearest(kind):
    scales = np.random.default_rng(1).normal(size=2000).astype(np.float32)
    stored = store_scales(scales, kind)
    assert stored.array.dtype == DTYPES[kind]
    eps = {"f16": 2.0**-11, "bf16": 2.0**-8, "f32": 0, "e4m3": 2.0**-4}[kind]
    large = np.abs(scales) > 0.05
    assert np.abs(stored.values() / scales - 1)[large].max() <= eps + 1e-7


@pytest.mark.parametrize(("kind", "value"), [("f16", 7e4), ("f16", 1e-7), ("bf16", 3.4e38)])
def test_scales_that_a_type_cannot_hold_are_float32(kind, value):
    scales = np.array([value], np.float32)
    assert np.array_equal(store_scales(scales, kind).array, scales)
    assert store_scales(scales, kind).array.dtype == np.float32
