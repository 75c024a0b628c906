"""Weight statistics against NumPy and SciPy on whole arrays."""

import numpy as np
import pytest
import scipy.stats

from bitfold.passes.analysis import weight_statistics as module
from bitfold.passes.analysis.weight_statistics import weight_statistics


def test_blocks_add_up_to_the_whole(monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 100)
    weight = np.random.default_rng(0).standard_t(5, (37, 29)).astype(np.float32)
    weight[:3] = 0
    found = weight_statistics(weight)
    assert found.low == weight.min()
    assert found.high == weight.max()
    assert found.std == pytest.approx(weight.std(dtype=np.float64))
    expected = scipy.stats.kurtosis(weight.astype(np.float64), axis=None, fisher=False)
    assert found.kurtosis == pytest.approx(expected)
    assert found.outlier_ratio == pytest.approx(np.abs(weight).max() / np.abs(weight).mean(), 1e-5)
    assert found.zeros == pytest.approx((weight == 0).mean())
    assert found.finite


def test_values_that_are_not_finite_are_told_and_left_out():
    found = weight_statistics(np.array([[1.0, np.nan], [-3.0, np.inf]], np.float32))
    assert (found.low, found.high, found.finite) == (-3.0, 1.0, False)


def test_a_constant_weight_has_no_spread():
    found = weight_statistics(np.full((4, 4), 2.0, np.float32))
    assert (found.std, found.kurtosis, found.outlier_ratio) == (0.0, 0.0, 1.0)
