"""AWQ's scales cancel, and make what large activations meet more precise."""

import numpy as np
import pytest
from support.graphs import apply, run
from support.scaling import apply_exactly, array, cached, f, normed, past, twin

from bitfold.models import tiny
from bitfold.passes.core.context import Context
from bitfold.passes.core.pipeline import Pipeline
from bitfold.passes.quantize.quantize import Quantize
from bitfold.passes.transform.awq_scale import EXPONENTS, AwqScale, salience


def test_the_scale_is_a_power_of_the_mean_magnitude():
    found = salience(np.array([[1.0, 16, 0, 4]]), 0.5)
    assert found[0, 1] / found[0, 0] == pytest.approx(4)
    assert found[0, 3] / found[0, 0] == pytest.approx(2)
    assert found[0, 2] == 1
    assert np.prod(found) == pytest.approx(1)


def test_low_bit_weights_err_less():
    model = normed(strength=20)
    reference = twin(model, normed())
    samples = [{"u": f(2, 100, 64)}]
    expected = run(model, samples[0])["y"]
    options = {"weights": "int3", "acts": "none"}
    entry = apply_exactly(AwqScale(**options), model, samples)
    assert "by mean|x|^" in entry.changes[0].text
    salient = np.abs(array(model, "wy")[3]).mean()
    assert salient > 2 * np.abs(array(model, "wy")).mean()
    errors = []
    for each in (reference, model):
        apply(Quantize(**options, exclude=("v",)), each)
        errors.append(np.square(run(each, samples[0])["y"] - expected).mean())
    assert errors[1] < 0.6 * errors[0]


def test_what_would_lose_stays(monkeypatch):
    monkeypatch.setattr("bitfold.passes.transform.awq_scale.EXPONENTS", (6.0,))
    model = normed(strength=2)
    entry = apply_exactly(AwqScale(weights="int3", acts="none"), model, [{"u": f(2, 100, 64)}])
    (skip,) = entry.skips
    assert skip.text == "its readers would gain nothing"
    assert skip.detail.count("dB") == 2


def test_shared_values():
    entry = apply_exactly(AwqScale(weights="int3", acts="none"), cached(), [past()])
    assert "16 channels in 2 blocks by mean|x|^" in entry.changes[0].text


def test_the_best_exponent_is_taken():
    texts = {f"mean|x|^{exponent:g}" for exponent in EXPONENTS}
    model = normed(strength=20)
    entry = apply_exactly(AwqScale(weights="int3"), model, [{"u": f(2, 100, 64)}])
    assert any(text in entry.changes[0].text for text in texts)


@pytest.mark.parametrize("name", sorted(tiny.TINY))
def test_tiny_models(name):
    with Context(samples=[tiny.sample_feeds(name, 0)]) as context:
        recipe = "canonicalize, fold-batch-norm, awq-scale"
        _, report = Pipeline(recipe, context, verify="full").run(tiny.TINY[name](0))
    assert report.passes[-1].status == "applied"
