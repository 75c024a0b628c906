"""AdaRound and AdaQuant against brute force, and against rounding to nearest."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from support.graphs import apply, parse

from bitfold.passes.quantize.adaquant import adaquant
from bitfold.passes.quantize.adaround import adaround, learned_shares, start
from bitfold.passes.quantize.quantize import Quantize
from bitfold.passes.quantize.ranges import inverse_of
from bitfold.passes.quantize.rounding import QuantizedWeight, round_to_nearest
from bitfold.runtime.formats.scheme import WeightScheme


def correlated(seed: int, k: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((512, k // 2 + 1)) @ rng.standard_normal((k // 2 + 1, k))
    x = x + rng.standard_normal(x.shape)
    return x.T @ x / 512


def loss(weight: np.ndarray, rounded: np.ndarray, gram: np.ndarray) -> np.ndarray:
    lost = (weight - rounded).astype(np.float64)
    return np.einsum("nk,kj,nj->n", lost, gram, lost)


def test_near_the_best_of_all_ways_to_round_up_or_down() -> None:
    gram, weight = correlated(0, 6), np.random.default_rng(1).standard_normal((40, 6))
    columns = start(weight, gram, WeightScheme("int3", 0, True, "f32"), "minmax", 6)
    step = columns.scales[columns.group]
    below = np.floor(columns.weight * inverse_of(step)) * step
    found = below + step * (learned_shares(columns, below, step, 400) >= 0.5)
    ways = np.array(list(product((0, 1), repeat=6)), np.float32)
    h = columns.gram.astype(np.float64)
    every = [loss(columns.weight.T, (below + step * way[:, None]).T, h) for way in ways]
    best, learned = np.min(every, 0), loss(columns.weight.T, found.T, h)
    nearest = loss(columns.weight.T, columns.rounded.T, h)
    assert (learned >= best * 0.999).all()
    assert np.mean(learned <= best * 1.001) > 0.5
    assert learned.sum() < 1.1 * best.sum()
    assert learned.sum() < 0.8 * nearest.sum()


def test_the_nearest_is_best_where_inputs_are_independent() -> None:
    weight = np.random.default_rng(2).standard_normal((16, 64)).astype(np.float32)
    for name in ("int4", "fp4"):
        scheme = WeightScheme(name, 32, True, "f32")
        plain = round_to_nearest(weight, scheme)
        found = adaround(weight, np.diag(np.linspace(1, 2, 64)), scheme)
        assert np.mean(found.codes == plain.codes) > 0.99


@pytest.mark.parametrize("name", ["int3", "fp4", "nf4", "binary", "fp6_e3m2"])
def test_each_goes_one_level_up_or_down(name: str) -> None:
    weight = np.random.default_rng(3).standard_normal((24, 64)).astype(np.float32)
    scheme = WeightScheme(name, 32, True, "f32")
    plain = round_to_nearest(weight, scheme)
    found = adaround(weight, correlated(4, 64), scheme, steps=60)
    levels = np.array(scheme.number.levels, np.float32)
    places = [np.searchsorted(levels, scheme.number.decode(each.codes)) for each in (plain, found)]
    assert np.abs(places[0] - places[1]).max() == 1


@pytest.mark.parametrize("method", [adaround, adaquant])
@pytest.mark.parametrize(
    "scheme",
    [
        WeightScheme("int3", 32, False),
        WeightScheme("int4", 0, True, "e8m0"),
        WeightScheme("fp4", 16, True, "e4m3"),
        WeightScheme("fp6_e2m3", 48),
    ],
    ids=str,
)
def test_outputs_lose_less(method: Callable[..., QuantizedWeight], scheme: WeightScheme) -> None:
    weight = np.random.default_rng(5).standard_normal((24, 112)).astype(np.float32)
    gram = correlated(6, 112)
    plain = loss(weight, round_to_nearest(weight, scheme).dequantize(), gram)
    found = method(weight, gram, scheme)
    learned = loss(weight, found.dequantize(), gram)
    assert learned.sum() < 0.6 * plain.sum()
    if method is adaquant:
        assert (learned < 1.05 * plain).all()  # the last fit knows H with its damping
    np.testing.assert_array_equal(found.codes, method(weight, gram, scheme).codes)


@pytest.mark.parametrize("method", ["adaround", "adaquant"])
def test_from_a_recipe(method: str) -> None:
    rng = np.random.default_rng(7)
    rows = (rng.standard_normal((128, 6)) @ rng.standard_normal((6, 64))).astype(np.float32)
    rows += 0.2 * rng.standard_normal(rows.shape).astype(np.float32)
    shown = {}
    for each in ("rtn", method):
        model = parse(
            "g (float[n, 64] x) => (float[n, 48] y) { y = MatMul(x, w) }",
            w=np.random.default_rng(8).standard_normal((64, 48)).astype(np.float32),
        )
        apply(Quantize(weights="int3", acts="none", method=each), model, [{"x": rows}])
        quantize = next(node for node in model.graph if node.op_type == "DequantizeWeight")
        shown[each] = quantize.inputs[0].const_value.numpy()
    assert shown["rtn"].shape == shown[method].shape
    assert (shown["rtn"] != shown[method]).any()
