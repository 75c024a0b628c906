"""Smoothing cancels, and moves outliers from activations to weights where that pays."""

import re

import numpy as np
import pytest
from support.graphs import apply, census, parse, run
from support.scaling import (
    LAYER,
    RMS,
    apply_exactly,
    array,
    cached,
    f,
    input_named,
    normed,
    outliers,
    past,
    twin,
)

from bitfold.models import tiny
from bitfold.passes.core.context import Context
from bitfold.passes.core.own_coordinates import rotation_of, to_own
from bitfold.passes.core.pipeline import Pipeline
from bitfold.passes.core.recipe import Recipe
from bitfold.passes.quantize.quantize import Quantize
from bitfold.passes.transform.smooth import Smooth, smoothing
from bitfold.runtime.errors import RecipeError


def smooth(model, samples, **options):
    return apply_exactly(Smooth(**options), model, samples)


def test_the_factors_are_the_papers():
    """Figure 5 of the paper: alpha = 0.5."""
    x = np.array([[2.0, 16.0, 9.0, 1.0]])
    w = np.array([[2.0, 1.0, 1.0, 4.0]])
    expected = np.sqrt(x / w)
    found = smoothing(x, w, 0.5)
    np.testing.assert_allclose(found / found[0, 0], expected / expected[0, 0])
    assert np.prod(found) == pytest.approx(1)


def test_dead_channels_keep_their_scale():
    found = smoothing(np.array([[0.0, 4, 9, 1]]), np.array([[1.0, 0, 1, 1]]), 0.5)
    assert found[0, 0] == found[0, 1] == 1
    assert found[0, 2] / found[0, 3] == pytest.approx(3)


@pytest.mark.parametrize("norm", [RMS, LAYER])
def test_behind_a_norm(norm):
    model = normed(norm)
    nodes, gain = census(model), array(model, "gain").copy()
    entry = smooth(model, [{"u": f(2, 30, 64)}], weights="int8", act_granularity="token")
    assert census(model) == nodes
    assert "64 channels by alpha" in entry.changes[0].text
    assert array(model, "gain").max() / array(model, "gain").min() < gain.max() / gain.min() / 2
    assert np.abs(array(model, "wy")[3]).max() > 4 * np.median(np.abs(array(model, "wy")).max(1))


def test_the_error_falls_as_estimated():
    """The estimate is of rows and outputs picked out of all; the real error follows it."""
    model = normed(shy=0.8)
    reference = twin(model, normed())
    samples = [{"u": f(2, 200, 64)}]
    options = {"weights": "int8", "acts": "int4", "act_granularity": "token"}
    expected = run(model, samples[0])["y"]
    entry = smooth(model, samples, **options)
    errors = []
    for each in (reference, model):
        apply(Quantize(**options, exclude=("v",)), each)
        errors.append(np.square(run(each, samples[0])["y"] - expected).mean())
    assert errors[1] < errors[0] / 10
    before, after = map(float, re.findall(r"[\d.]+(?= dB)", entry.changes[0].text))
    assert after - before == pytest.approx(10 * np.log10(errors[0] / errors[1]), abs=1.5)


def test_what_would_lose_is_left_with_the_figures():
    model = normed(strength=1.0)
    old = array(model, "wy").copy()
    entry = smooth(model, [{"u": f(2, 30, 64)}], alpha=1.0, acts="none")
    (skip,) = entry.skips
    assert skip.text == "its readers would gain nothing"
    assert "dB would become" in skip.detail
    np.testing.assert_array_equal(array(model, "wy"), old)


def test_through_relu_and_convolutions():
    model = parse(
        """g (float[n, 3, 8, 8] x) => (float[n, 16, 8, 8] y) {
            a = Conv<pads = [1, 1, 1, 1], kernel_shape = [3, 3]>(x, v, bias)
            r = Relu(a)
            y = Conv<pads = [1, 1, 1, 1], kernel_shape = [3, 3]>(r, w)
        }""",
        v=f(32, 3, 3, 3) * outliers(32, (1, 20))[:, None, None, None],
        bias=f(32),
        w=f(16, 32, 3, 3),
    )
    entry = smooth(model, [{"x": f(2, 3, 8, 8)}], weights="int8", act_granularity="token")
    assert "32 channels by alpha" in entry.changes[0].text
    reach = np.abs(array(model, "v")).max((1, 2, 3))
    assert reach.max() / np.median(reach) < 20


def test_heads_that_share_values_share_factors():
    model, feeds = cached(), past()
    entry = smooth(model, [feeds], weights="int8", act_granularity="token")
    assert "16 channels in 2 blocks" in entry.changes[0].text
    scales = rotation_of(input_named(model, "pv"))
    assert scales.shape == (2, 16, 16)
    assert np.count_nonzero(scales) == 32
    assert scales[0].diagonal()[2] == scales[0].diagonal().min()
    assert rotation_of(input_named(model, "pk")) is None
    wrong = run(model, feeds)["y"]
    right = run(model, to_own(model.graph.inputs, feeds))["y"]
    assert np.abs(wrong - right).max() > 0.1


def test_caches_left_alone():
    entry = smooth(cached(), [past()], weights="int8", act_granularity="token", caches=False)
    assert not entry.changes
    assert "pv holds it from run to run" in [skip.text for skip in entry.skips]


def test_a_weight_that_others_read_too_stays():
    model = parse(
        """g (float[b, 64] u) => (float[b, 40] y, float[b, 40] z) {
            x = MatMul(u, v)
            n = RMSNormalization<axis = -1>(x, gain)
            y = MatMul(n, w)
            z = MatMul(x, w)
        }""",
        v=f(64, 64),
        gain=outliers(64, (3,)),
        w=f(64, 40),
    )
    feeds = [{"u": f(30, 64)}]
    entry = smooth(model, feeds, weights="int8", act_granularity="token", copy_limit=10)
    assert any("reads w too" in skip.text for skip in entry.skips)
    assert not entry.changes
    entry = smooth(model, feeds, weights="int8", act_granularity="token", copy_limit=10**6)
    assert len(entry.changes) == 1


def test_gelu_keeps_its_scale():
    model = parse(
        """g (float[b, 16] x) => (float[b, 16] y) {
            a = MatMul(x, v)
            r = Gelu(a)
            y = MatMul(r, w)
        }""",
        v=f(16, 64),
        w=f(64, 16),
    )
    entry = smooth(model, [{"x": f(30, 16)}])
    assert "Gelu" in entry.skips[0].text


def test_without_samples_nothing_happens():
    entry = smooth(normed(), [])
    assert "no sample inputs" in entry.notes[0]
    assert not entry.changes


def test_infinite_inputs_are_left_alone():
    x = f(2, 30, 64)
    x[0, 0, 0] = np.inf
    model = normed()
    item = Smooth()
    with Context(calibration=[{"u": x}]) as context:
        assert not item.run(model, context)
        assert "not finite" in context.entry.skips[0].text


def test_options():
    assert Recipe.of("smooth{alpha=0.5}").passes[0].alpha == 0.5
    assert Recipe.of("smooth{alpha=search}").passes[0].alpha == "search"
    with pytest.raises(RecipeError, match="from 0 to 1"):
        Smooth(alpha=2.0)
    with pytest.raises(RecipeError, match="multiple of 16"):
        Smooth(group=7)


@pytest.mark.parametrize("name", sorted(tiny.TINY))
def test_tiny_models(name):
    feeds = tiny.sample_feeds(name, 0)
    with Context(samples=[feeds]) as context:
        recipe = "canonicalize, fold-batch-norm, smooth{act_granularity=token}"
        _, report = Pipeline(recipe, context, verify="full").run(tiny.TINY[name](0))
    assert report.passes[-1].status == "applied"
