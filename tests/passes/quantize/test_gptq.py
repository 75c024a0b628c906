"""GPTQ and coordinate descent against brute force, rounding to nearest and known answers."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitfold.passes.quantize.columns import Columns
from bitfold.passes.quantize.descent import descend
from bitfold.passes.quantize.gptq import column_order, damp, gptq, inverse_factor
from bitfold.passes.quantize.rounding import round_to_nearest
from bitfold.runtime.formats.scale_types import scale_values, store_scales
from bitfold.runtime.formats.scheme import WeightScheme


def correlated(rng: np.random.Generator, k: int, rows: int = 4096) -> np.ndarray:
    """A Gram matrix of inputs that hang together, some of them much larger than others."""
    x = rng.standard_normal((rows, k // 2 + 1)) @ rng.standard_normal((k // 2 + 1, k))
    x = (x + rng.standard_normal((rows, k))) * np.exp(rng.standard_normal(k))
    return x.T @ x / rows


def loss(weight: np.ndarray, rounded: np.ndarray, gram: np.ndarray) -> float:
    lost = (weight - rounded).astype(np.float64)
    return float(np.einsum("nk,kj,nj->", lost, gram, lost))


def test_inverse_factor() -> None:
    gram = damp(correlated(np.random.default_rng(0), 24))
    factor = inverse_factor(gram)
    np.testing.assert_array_equal(factor, np.triu(factor))
    np.testing.assert_allclose(factor.T @ factor @ gram, np.eye(24), atol=1e-8)


def test_groups_stay_together() -> None:
    order = column_order(np.array([1.0, 5, 2, 9, 9, 9, 0, 0, 1, 30]), 4)
    np.testing.assert_array_equal(order, [9, 8, 4, 5, 6, 7, 3, 1, 2, 0])


def lowest(weight: np.ndarray, gram: np.ndarray, levels: np.ndarray) -> float:
    """The least loss of one row over all codes, each with the scale that is best for it."""
    best = np.inf
    for chosen in product(levels, repeat=len(weight)):
        q = np.array(chosen, np.float64)
        bend = q @ gram @ q
        scale = (q @ gram @ weight) / bend if bend > 0 else 0.0
        best = min(best, loss(weight[None], scale * q[None], gram))
    return best


def test_near_the_optimum_of_brute_force() -> None:
    scheme = WeightScheme("int2", 0, True, "f32")
    shares, plain = [], []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        gram, weight = correlated(rng, 6), rng.standard_normal((1, 6)).astype(np.float32)
        optimum = lowest(weight[0].astype(np.float64), gram, np.arange(-2.0, 2.0))
        found = loss(weight, gptq(weight, gram, scheme).dequantize(), gram)
        nearest = loss(weight, round_to_nearest(weight, scheme).dequantize(), gram)
        assert found >= optimum * 0.999
        shares.append(found / optimum)
        plain.append(nearest / optimum)
    assert np.median(shares) < 1.35
    assert np.median(shares) < 0.5 * np.median(plain)


SCHEMES = [
    *(WeightScheme(f"int{bits}", 32, False) for bits in range(2, 9)),
    WeightScheme("int4", 0, True),
    WeightScheme("int3", 16, True, "bf16"),
    WeightScheme("ternary", 32),
    WeightScheme("binary", 32),
    WeightScheme("nf4", 32, True, "f32"),
    WeightScheme("fp4", 32, True, "e8m0"),
    WeightScheme("fp4", 16, True, "e4m3"),
    WeightScheme("fp6_e2m3", 64),
    WeightScheme("pot4", 32),
]


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("k", [70, 192])
def test_every_format_gains(scheme: WeightScheme, k: int) -> None:
    rng = np.random.default_rng(1)
    gram, weight = correlated(rng, k), rng.standard_normal((40, k)).astype(np.float32)
    nearest = loss(weight, round_to_nearest(weight, scheme).dequantize(), gram)
    greedy = loss(weight, gptq(weight, gram, scheme, sweeps=0).dequantize(), gram)
    best = loss(weight, gptq(weight, gram, scheme).dequantize(), gram)
    assert best < 0.8 * nearest
    assert best < greedy
    again = gptq(weight, gram, scheme)
    np.testing.assert_array_equal(again.codes, gptq(weight, gram, scheme).codes)


@given(st.integers(0, 2**32 - 1), st.sampled_from([16, 48]))
@settings(max_examples=30)
def test_a_sweep_never_raises_the_loss(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    gram = damp(correlated(rng, 48, 64)).astype(np.float32)
    weight = rng.standard_normal((5, 48)).astype(np.float32)
    scheme = WeightScheme("int3", size, True, "f32")
    order = np.arange(48)
    columns = Columns(scheme, weight.T, gram, order, order // size, store_scales(weight, "f32"))
    for group, run in columns.runs():
        columns.set_scale(group, np.abs(weight[:, run]).max(1) / 4)
        for j in range(run.start, run.stop):
            columns.round_column(j, weight[:, j])
    losses = [loss(weight, columns.rounded.T, gram)]
    for _ in range(3):
        descend(columns)
        losses.append(loss(weight, columns.rounded.T, gram))
    assert all(after <= before * 1.0001 for before, after in pairwise(losses))
    assert losses[-1] < losses[0]
    np.testing.assert_allclose(columns.result(size).dequantize(), columns.rounded.T, atol=1e-6)


def test_inputs_that_tell_nothing() -> None:
    """Zero inputs, zero weights, and fewer rows than channels: finite, no worse than nearest."""
    rng = np.random.default_rng(2)
    weight = rng.standard_normal((8, 64)).astype(np.float32)
    weight[:, 32:48] = 0
    scheme = WeightScheme("int4", 16, False)
    blind = gptq(weight, np.zeros((64, 64)), scheme).dequantize()
    nearest = round_to_nearest(weight, scheme).dequantize()
    assert loss(weight, blind, np.eye(64)) <= 1.001 * loss(weight, nearest, np.eye(64))
    few = rng.standard_normal((3, 64))
    found = gptq(weight, few.T @ few, scheme).dequantize()
    assert np.isfinite(found).all()
    assert loss(weight, found, few.T @ few) < 0.2 * loss(weight, nearest, few.T @ few)


@pytest.mark.parametrize("kind", ["f16", "bf16", "f32", "e8m0", "e4m3"])
def test_scales_stored_alike(kind: str) -> None:
    scales = np.geomspace(1e-3, 2, 40, dtype=np.float32)
    stored = store_scales(scales, kind)
    np.testing.assert_array_equal(stored.like(scales).array, stored.array)
    huge = stored.like(np.array([1e30], np.float32))
    assert np.isfinite(scale_values(huge.array, huge.factor)).all()


@pytest.mark.parametrize("symmetric", [False, True])
def test_rows_a_block_at_a_time(symmetric: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    weight, gram = rng.standard_normal((13, 48)).astype(np.float32), correlated(rng, 48)
    scheme = WeightScheme("int4", 16, symmetric, "e4m3")
    whole = gptq(weight, gram, scheme)
    monkeypatch.setattr("bitfold.passes.quantize.gptq.ROWS", 5)
    parts = gptq(weight, gram, scheme)
    assert parts.scale_factor == whole.scale_factor
    assert loss(weight, parts.dequantize(), gram) == pytest.approx(
        loss(weight, whole.dequantize(), gram), rel=1e-3
    )
