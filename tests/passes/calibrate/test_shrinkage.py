"""Shrinkage: closer to the truth than the plain mean where samples are few, the same where many."""

from __future__ import annotations

import numpy as np
import pytest

from bitfold.passes.calibrate.shrinkage import MeanOfGrams

K = 32


def estimate(samples: int, rows: int, seed: int) -> tuple[np.ndarray, MeanOfGrams]:
    """A true matrix, and the mean of those of some samples, each of rows that hang together."""
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((K, K)) * np.linspace(0.5, 2, K)
    found = MeanOfGrams()
    for _ in range(samples):
        common = rng.standard_normal((1, K))
        x = (0.8 * common + 0.6 * rng.standard_normal((rows, K))) @ root
        found.add(x.T @ x / rows)
    return root.T @ root, found


def test_closer_to_the_truth() -> None:
    errors = np.zeros(2)
    for seed in range(100):
        true, found = estimate(10, 40, seed)
        errors += [np.square(each - true).sum() for each in (found.mean, found.shrunk)]
        assert np.linalg.eigvalsh(found.shrunk).min() > np.linalg.eigvalsh(found.mean).min()
        assert np.trace(found.shrunk) == pytest.approx(np.trace(found.mean))
    assert errors[1] < 0.9 * errors[0]


def test_many_samples_are_believed() -> None:
    _, found = estimate(4000, 20, 0)
    np.testing.assert_allclose(found.shrunk, found.mean, atol=0.01 * np.abs(found.mean).max())


def test_one_sample_says_nothing_of_its_error() -> None:
    _, found = estimate(1, 40, 0)
    np.testing.assert_array_equal(found.shrunk, found.mean)


def test_samples_that_are_alike_or_nothing() -> None:
    for gram in (np.zeros((3, 3)), np.eye(3)):
        found = MeanOfGrams()
        found.add(gram)
        found.add(gram)
        np.testing.assert_array_equal(found.shrunk, gram)
