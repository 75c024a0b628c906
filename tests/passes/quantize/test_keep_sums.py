"""``keep_sums``: the taps of a filter keep their sum, and move one step at most."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitfold.passes.quantize.keep_sums import keep_sums
from bitfold.passes.quantize.rounding import QuantizedWeight, round_to_nearest
from bitfold.runtime.formats.scheme import WeightScheme


def rounded(weight: np.ndarray, bits: int) -> QuantizedWeight:
    return round_to_nearest(weight, WeightScheme(f"int{bits}"), "minmax")


@given(st.integers(0, 2**32), st.sampled_from([3, 4, 8]), st.integers(1, 12), st.integers(1, 49))
def test_sums_stay_within_half_a_step(seed: int, bits: int, rows: int, taps: int) -> None:
    weight = np.random.default_rng(seed).standard_normal((rows, taps)).astype(np.float32)
    weight[0] = 0  # a dead channel has scale 0 and nothing to keep
    plain = rounded(weight, bits)
    kept = keep_sums(weight, plain)
    scale = np.abs(kept.scales.astype(np.float32))[:, 0]
    lost = np.abs(kept.dequantize().sum(1) - weight.sum(1))
    before = np.abs(plain.dequantize().sum(1) - weight.sum(1))
    moved = kept.codes.astype(int) - plain.codes
    assert np.abs(moved).max() <= 1
    assert (np.sign(moved).min(1) * np.sign(moved).max(1) >= 0).all()  # a row moves one way
    # Where no code stands at the end of the range, half a step is all that is left.
    free = ((plain.codes > 0) & (plain.codes < (1 << bits) - 1)).all(1)
    assert (lost <= before + 1e-4).all()
    assert (lost[free] <= 0.5001 * scale[free] + 1e-4).all()


def test_the_code_with_the_largest_error_moves() -> None:
    weight = np.array([[128.0, 10.4, 20.3, 30.45, 5.0]], np.float32)
    plain = rounded(weight, 8)
    np.testing.assert_array_equal(plain.dequantize(), [[128, 10, 20, 30, 5]])
    # 0.4 + 0.3 + 0.45 are lost: one whole step, given back where it costs least.
    np.testing.assert_array_equal(keep_sums(weight, plain).dequantize(), [[128, 10, 20, 31, 5]])


def test_a_smooth_signal_loses_far_less() -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((64, 25)).astype(np.float32)
    plain = rounded(weight, 8)
    kept = keep_sums(weight, plain)
    smooth = 3 + 0.1 * rng.standard_normal((25, 400)).astype(np.float32)
    noise = [np.square((q.dequantize() - weight) @ smooth).mean() for q in (plain, kept)]
    assert noise[1] < noise[0] / 5


def test_other_codes_are_refused() -> None:
    weight = np.ones((2, 16), np.float32)
    with pytest.raises(ValueError, match="symmetric"):
        keep_sums(weight, round_to_nearest(weight, WeightScheme("int4", symmetric=False)))
