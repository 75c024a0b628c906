"""Divergence against closed forms and SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, rel_entr, softmax

from bitfold.passes.core.compare import (
    compare_outputs,
    kl_divergence,
    logits_name,
    moved,
    moved_beside_mask,
)


def arrays(seed, shape=(3, 5, 40)):
    rng = np.random.default_rng(seed)
    a = rng.standard_normal(shape).astype(np.float32)
    return a, (a + 0.1 * rng.standard_normal(shape)).astype(np.float32)


def test_equal_outputs():
    a, _ = arrays(0)
    divergence = compare_outputs([({"logits": a}, {"logits": a.copy()})])
    assert divergence.sqnr_db == math.inf
    assert divergence.cosine == pytest.approx(1)
    assert (divergence.max_error, divergence.kl, divergence.top1) == (0, 0, 1)


@given(st.integers(0, 1000), st.sampled_from([(1, 17), (3, 5, 40), (130, 16), (2, 1, 300)]))
def test_against_scipy(seed, shape):
    a, b = arrays(seed, shape)
    found = compare_outputs([({"logits": a}, {"logits": b})])
    x, y = a.astype(np.float64), b.astype(np.float64)
    assert found.sqnr_db == pytest.approx(10 * np.log10((x**2).sum() / ((x - y) ** 2).sum()))
    cosine = (x * y).sum() / np.linalg.norm(x) / np.linalg.norm(y)
    assert found.cosine == pytest.approx(cosine)
    assert found.max_error == pytest.approx(np.abs(x - y).max() / np.abs(x).max())
    kl = rel_entr(softmax(x, -1), softmax(y, -1)).sum(-1).mean()
    assert found.kl == pytest.approx(kl, rel=1e-9, abs=1e-12)
    assert found.top1 == pytest.approx((x.argmax(-1) == y.argmax(-1)).mean())


def test_blocks_change_nothing(monkeypatch):
    a, b = arrays(3, (11, 13, 17))
    whole = compare_outputs([({"logits": a}, {"logits": b})])
    monkeypatch.setattr("bitfold.passes.core.compare._BLOCK", 100)
    monkeypatch.setattr("bitfold.passes.core.compare._ROWS", 7)
    parts = compare_outputs([({"logits": a}, {"logits": b})])
    assert parts.sqnr_db == pytest.approx(whole.sqnr_db)
    assert parts.kl == pytest.approx(whole.kl)
    assert parts.cosine == pytest.approx(whole.cosine)


def test_worst_output_and_mean_over_all_positions():
    a, b = arrays(1, (4, 20))
    c, d = arrays(2, (12, 20))
    both = compare_outputs(
        [({"logits": a, "z": a}, {"logits": a, "z": b}), ({"logits": c}, {"logits": d})]
    )
    only_z = compare_outputs([({"z": a}, {"z": b})])
    only_y = compare_outputs([({"logits": np.vstack([a, c])}, {"logits": np.vstack([a, d])})])
    assert both.sqnr_db == pytest.approx(min(only_z.sqnr_db, only_y.sqnr_db))
    assert both.kl == pytest.approx(only_y.kl)


def test_lost_and_reshaped_outputs_and_new_nan():
    a, b = arrays(0)
    nan = b.copy()
    nan[0, 0, 0] = np.nan
    for found in ({}, {"y": a[0]}, {"y": nan}, {"y": a.astype(np.int64)}):
        divergence = compare_outputs([({"y": a}, found)])
        assert divergence.sqnr_db == -math.inf
        assert divergence.cosine == 0
        assert divergence.max_error == math.inf


def test_nan_and_infinity_in_the_same_place_are_no_change():
    a, b = arrays(0)
    for array in (a, b):
        array[0, 0] = np.nan
        array[1, 2, 3] = -np.inf
    divergence = compare_outputs([({"logits": a}, {"logits": b})])
    assert 0 < divergence.max_error < 1
    assert math.isfinite(divergence.sqnr_db)
    assert math.isfinite(divergence.kl)
    b[1, 2, 3] = np.inf
    assert moved(a, b).max_error == math.inf
    assert moved(b, np.nan_to_num(b)).max_error == math.inf


def test_masked_classes_have_no_probability():
    x = np.array([[0.0, 1.0, -np.inf]])
    y = np.array([[0.5, 1.0, -np.inf]])
    expected = rel_entr(softmax(x[:, :2]), softmax(y[:, :2])).sum()
    assert kl_divergence(x, y)[0] == pytest.approx(expected)
    # What the candidate rules out and the reference does not costs infinitely much.
    assert kl_divergence(np.zeros((1, 2)), np.array([[0.0, -np.inf]]))[0] == math.inf


def test_extreme_logits_do_not_overflow():
    x = np.array([[1e4, 0.0, -1e4]], np.float32)
    y = np.array([[1e4, 9e3, -1e4]], np.float32)
    assert kl_divergence(x, y)[0] == pytest.approx(-log_softmax(y.astype(float))[0, 0], abs=1e-9)


def test_integers_and_booleans_agree_or_do_not():
    a = np.array([1, 2, 3])
    assert moved(a, a.copy()).max_error == 0
    assert moved(a, a + 1).max_error == math.inf
    divergence = compare_outputs([({"ids": a}, {"ids": a})])
    assert (divergence.sqnr_db, divergence.cosine, divergence.kl) == (math.inf, 1.0, None)
    assert compare_outputs([({"ids": a}, {"ids": a + 1})]).sqnr_db == -math.inf


def test_what_counts_as_logits():
    array = np.zeros((2, 16), np.float32)
    assert logits_name({"last_hidden_state": array}) is None
    assert logits_name({"y": array, "my_logits": array}) == "my_logits"
    assert logits_name({"Logits": array}) == "Logits"
    assert logits_name({"logits": np.zeros((2, 16), np.int64)}) is None
    assert logits_name({"logits": np.zeros(16, np.float32)}) is None


def test_zero_reference_and_empty_outputs():
    zero = np.zeros((2, 3), np.float32)
    assert moved(zero, zero).max_error == 0
    assert moved(zero, zero + 1).max_error == math.inf
    empty = np.zeros((2, 0), np.float32)
    divergence = compare_outputs([({"past": empty}, {"past": empty})])
    assert (divergence.sqnr_db, divergence.max_error) == (math.inf, 0)


def test_nothing_to_compare():
    with pytest.raises(ValueError, match="found none"):
        compare_outputs([])


@pytest.mark.parametrize("fill", [-1e4, -1e9, float(np.finfo(np.float32).min), -np.inf])
def test_mask_does_not_hide_what_moves_beside_it(fill):
    scores = np.random.default_rng(0).standard_normal((2, 8, 8)).astype(np.float32)
    mask = np.where(np.tri(8, dtype=bool), 0, fill).astype(np.float32)
    a, b = scores + mask, 1.01 * scores + mask
    assert moved_beside_mask(a, b).max_error == pytest.approx(0.01, rel=0.2)
    assert moved_beside_mask(a, a).max_error == 0
    assert moved_beside_mask(a, scores).max_error >= 0.5
    # Without a mask it is the plain measure.
    assert moved_beside_mask(scores, 1.01 * scores) == moved(scores, 1.01 * scores)
