"""Figures of outliers, against known answers and SciPy."""

import numpy as np
import pytest
from scipy.stats import kurtosis

from bitfold.passes.analysis import outliers

RNG = np.random.default_rng(0)


def test_excess_kurtosis():
    rows = RNG.standard_t(4, (7, 96)).astype(np.float32)
    expected = kurtosis(rows.astype(np.float64), axis=1)
    np.testing.assert_allclose(outliers.excess_kurtosis(rows), expected, rtol=1e-9)
    one_holds_all = np.zeros((1, 576))
    one_holds_all[0, 3] = 1e4
    assert outliers.excess_kurtosis(one_holds_all)[0] == pytest.approx(571, abs=2)
    assert outliers.excess_kurtosis(np.ones((1, 8)))[0] == 0


def test_peak_ratio():
    rows = np.array([[1.0, -2.0, 3.0, -40.0, 2.0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]])
    np.testing.assert_array_equal(outliers.peak_ratio(rows), [20, np.inf, 1])


def measured(rows):
    return outliers.utilization(len(rows), rows.sum(axis=0), rows.T @ rows)


def test_utilization():
    rows = RNG.standard_normal((4000, 16))
    assert measured(rows) == pytest.approx(1, abs=0.05)
    wide = rows.copy()
    wide[:, 5] *= 50
    turn, _ = np.linalg.qr(RNG.standard_normal((16, 16)))
    assert measured(wide) < 0.05 < measured(wide @ turn)
    assert measured(rows + 10) < 0.2  # a mean takes room too
    assert measured(7 * wide) == pytest.approx(measured(wide))
    assert measured(np.zeros((3, 4))) == 1


def test_massive_activations():
    rows = RNG.standard_normal((20, 30)) * 0.05
    rows[4, 7] = -150
    rows[9, 2] = 90  # large, but below 100
    np.testing.assert_array_equal(outliers.massive(rows), [[4, 7]])
    assert not len(outliers.massive(rows + 10))  # 150 is not far above a median of 10


def test_sink_tokens():
    """Causal attention of 6 queries, of which one head looks at key 0."""
    even = np.tril(np.ones((6, 6)))
    even /= even.sum(axis=1, keepdims=True)
    sink = 0.2 * even
    sink[:, 0] += 0.8
    assert outliers.sink_tokens(np.stack([even, sink])).tolist() == [0]
    spread = np.full((1, 6, 6), 1 / 6)
    assert not len(outliers.sink_tokens(spread))
