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
    assert outliers.excess_kurtosis(np.full((1, 7), 0.1))[0] == 0
    assert outliers.excess_kurtosis(np.zeros((1, 7)))[0] == 0


def test_peak_ratio():
    rows = np.array([[1.0, -2.0, 3.0, -40.0, 2.0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]])
    np.testing.assert_array_equal(outliers.peak_ratio(rows), [20, np.inf, 1])


def test_utilization():
    rows = RNG.standard_normal((4000, 16))
    assert outliers.utilization(rows) == pytest.approx(1, abs=0.05)
    wide = rows.copy()
    wide[:, 5] *= 50
    turn, _ = np.linalg.qr(RNG.standard_normal((16, 16)))
    assert outliers.utilization(wide) < 0.05 < outliers.utilization(wide @ turn)
    assert outliers.utilization(rows + 10) < 0.2  # a mean takes room too
    assert outliers.utilization(7 * wide) == pytest.approx(outliers.utilization(wide))
    assert outliers.utilization(np.zeros((3, 4))) == 1


@pytest.mark.parametrize("count", [5, 24, 90])
def test_utilization_by_its_formula(count):
    """However few tokens there are, it is what the covariance of all channels says."""
    rows = RNG.standard_normal((count, 24)) * np.linspace(0.5, 4, 24) + 0.3
    mean = rows.mean(axis=0)
    covariance = np.cov(rows.T, bias=True)
    share = 24 / (24 + count)
    ball = np.trace(covariance) / 24 * np.eye(24)
    covariance = (1 - share) * covariance + share * ball
    widest = np.sqrt(np.diag(covariance) + mean**2).max()
    expected = np.linalg.det(covariance) ** (1 / 48) / widest
    assert outliers.utilization(rows) == pytest.approx(expected)


def test_massive_activations():
    rows = RNG.standard_normal((20, 30)) * 0.05
    rows[4, 7] = -150
    rows[9, 2] = 90  # large, but below 100
    np.testing.assert_array_equal(outliers.massive(rows), [[4, 7]])
    assert not len(outliers.massive(rows + 10))  # 150 is not far above a median of 10


def sinks(probabilities):
    seen = probabilities > 0
    even = seen / seen.sum(axis=2, keepdims=True)
    sums = (each.sum(axis=1) for each in (probabilities, even, seen))
    return outliers.sink_tokens(*sums).tolist()


def test_sink_tokens():
    """Causal attention of 6 queries, of which one head looks at key 0."""
    even = np.tril(np.ones((6, 6)))
    even /= even.sum(axis=1, keepdims=True)
    sink = 0.2 * even
    sink[:, 0] += 0.8
    assert sinks(np.stack([even, sink])) == [0]
    assert sinks(np.full((1, 6, 6), 1 / 6)) == []


def test_what_few_queries_see_is_no_sink():
    """Each looks at itself and at the token in front of it alone: that is what it wants."""
    near = np.tril(np.triu(np.full((1, 12, 12), 0.5), -1))
    near[0, 0, 0] = 1
    far = np.tril(np.full((1, 12, 12), 1e-9))
    assert sinks(near + far) == []
