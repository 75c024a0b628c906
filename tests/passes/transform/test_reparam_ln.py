"""Norms give all channels one range and one middle, and their readers take it back."""

import numpy as np
import pytest
from support.graphs import apply, census, run
from support.scaling import LAYER, PLAIN_LAYER, RMS, apply_exactly, array, f, normed, twin

from bitfold.models import tiny
from bitfold.passes.analysis.activations import channel_statistics
from bitfold.passes.core.context import Context
from bitfold.passes.core.pipeline import Pipeline
from bitfold.passes.quantize.quantize import Quantize
from bitfold.passes.transform.reparam_ln import ReparamLn, variation

TOKEN = {"weights": "int8", "acts": "int4", "act_granularity": "token"}


def seen(model, samples):
    return channel_statistics(model, {"n": (-1,)}, samples)["n"]


def skewed(norm):
    """A norm some of whose channels lie far from zero."""
    model = normed(norm, strength=10, shy=1.0)
    if norm == LAYER:
        bias = model.graph.initializers["bias"]
        shifted = array(model, "bias").copy()
        shifted[[5, 17]] += 40
        bias.const_value = type(bias.const_value)(shifted, name="bias")
    return model


def test_the_layers_scale():
    ranges = np.array([[1.0, 2, 3, 10, 0]])
    np.testing.assert_allclose(variation(ranges, "mean"), [[0.25, 0.5, 0.75, 2.5, 1]])
    np.testing.assert_allclose(variation(ranges, "median"), [[0.4, 0.8, 1.2, 4, 1]])


@pytest.mark.parametrize("layer_scale", ["mean", "median"])
def test_every_channel_gets_the_layers_range_and_middle(layer_scale):
    model, samples = skewed(LAYER), [{"u": f(2, 60, 64)}]
    before = seen(model, samples)
    entry = apply_exactly(ReparamLn(**TOKEN, layer_scale=layer_scale), model, samples)
    assert "64 channels by scales and shifts" in entry.changes[0].text
    after = seen(model, samples)
    layer = getattr(np, layer_scale)(before.high - before.low)
    np.testing.assert_allclose(after.high, np.full(64, layer / 2), rtol=1e-3)
    np.testing.assert_allclose(after.low, np.full(64, -layer / 2), rtol=1e-3)
    assert census(model)["Add"] == 2  # the readers' new biases


def test_a_norm_without_bias_gets_one():
    model = normed(PLAIN_LAYER, strength=10, shy=1.0)
    samples = [{"u": np.abs(f(2, 60, 64)) + np.linspace(0, 9, 64, dtype=np.float32)}]
    entry = apply_exactly(ReparamLn(**TOKEN), model, samples)
    assert "shifts" in entry.changes[0].text
    assert len(next(n for n in model.graph if n.op_type == "LayerNormalization").inputs) == 3


def test_rms_norms_take_scales_alone():
    model, samples = skewed(RMS), [{"u": f(2, 60, 64)}]
    nodes = census(model)
    entry = apply_exactly(ReparamLn(**TOKEN), model, samples)
    assert "64 channels by scales:" in entry.changes[0].text
    assert census(model) == nodes
    reach = seen(model, samples).reach
    assert reach.max() < 1.001 * reach.min()


def test_the_error_falls():
    model, samples = skewed(LAYER), [{"u": f(2, 100, 64)}]
    reference = twin(model, normed(LAYER))
    expected = run(model, samples[0])["y"]
    apply_exactly(ReparamLn(**TOKEN), model, samples)
    errors = []
    for each in (reference, model):
        apply(Quantize(**TOKEN, exclude=("v",)), each)
        errors.append(np.square(run(each, samples[0])["y"] - expected).mean())
    assert errors[1] < errors[0] / 10


def test_what_would_lose_stays():
    model = normed(strength=1)
    entry = apply_exactly(ReparamLn(weights="int4", acts="none"), model, [{"u": f(2, 30, 64)}])
    assert not entry.changes
    assert [skip.text for skip in entry.skips] == ["its readers would gain nothing"]


def test_spaces_that_no_norm_writes_are_not_asked():
    with Context(samples=[tiny.sample_feeds("cnn", 0)]) as context:
        _, report = Pipeline("canonicalize, reparam-ln", context).run(tiny.TINY["cnn"](0))
    assert not report.passes[-1].skips
    assert report.passes[-1].status == "unchanged"


@pytest.mark.parametrize("name", ["decoder", "vit"])
def test_tiny_models(name):
    with Context(samples=[tiny.sample_feeds(name, 0)]) as context:
        _, report = Pipeline("canonicalize, reparam-ln", context, verify="full").run(
            tiny.TINY[name](0)
        )
    assert report.passes[-1].status == "applied"
