"""Exponent biases cancel to the last bit, and bring channels closer to each other."""

import numpy as np
import pytest
from support.scaling import LAYER, RMS, apply_exactly, array, f, normed

from bitfold.models import tiny
from bitfold.passes.core.context import Context
from bitfold.passes.core.pipeline import Pipeline
from bitfold.passes.transform.fp_bias import FpBias, biases
from bitfold.runtime.errors import RecipeError


def test_biases_are_whole_and_within_the_window():
    found = biases(np.array([[0.9, 2.1, 0.0, 40.0, 1000.0]]), 0, 7)
    np.testing.assert_array_equal(found, [[0, 1, 0, 5, 7]])
    np.testing.assert_array_equal(biases(np.array([[0.9, 2.1, 40.0]]), 2, 3), [[0, 0, 3]])


@pytest.mark.parametrize("norm", [RMS, LAYER])
def test_weights_keep_their_mantissas(norm):
    model = normed(norm)
    old = {name: array(model, name).copy() for name in ("gain", "wy", "wz")}
    options = {"weights": "fp4", "symmetric": True, "act_granularity": "token"}
    entry = apply_exactly(FpBias(**options), model, [{"u": f(2, 30, 64)}])
    assert "64 channels by 2^" in entry.changes[0].text
    ratio = array(model, "gain") / old["gain"]
    np.testing.assert_array_equal(ratio, np.exp2(np.rint(np.log2(ratio))))
    assert ratio[3] < np.median(ratio)
    for name in ("wy", "wz"):
        np.testing.assert_array_equal(array(model, name) * ratio[:, None], old[name])


@pytest.mark.parametrize("bits", [1, 3])
def test_bits_of_a_bias(bits):
    model = normed()
    old = array(model, "gain").copy()
    item = FpBias(exponent_bits=bits, weights="int8", act_granularity="token")
    apply_exactly(item, model, [{"u": f(2, 30, 64)}])
    shifts = -np.log2(array(model, "gain") / old)
    assert shifts.min() >= 0
    assert 1 <= shifts.max() <= 2**bits - 1


def test_what_would_lose_stays():
    model = normed(strength=1)
    entry = apply_exactly(FpBias(weights="int8", acts="none"), model, [{"u": f(2, 30, 64)}])
    assert [skip.text for skip in entry.skips] == ["its readers would gain nothing"]


def test_options():
    with pytest.raises(RecipeError, match="1 to 5 exponent bits"):
        FpBias(exponent_bits=0)


@pytest.mark.parametrize("name", sorted(tiny.TINY))
def test_tiny_models_stay_the_same_to_the_last_bit(name):
    with Context(samples=[tiny.sample_feeds(name, 0)]) as context:
        recipe = "canonicalize, fold-batch-norm, fp-bias"
        _, report = Pipeline(recipe, context, verify="full").run(tiny.TINY[name](0))
    assert report.passes[-1].status == "applied"
    assert report.passes[-1].divergence.max_error == 0
