"""Both sides of every channel come to the same range, through chains of any length."""

import numpy as np
import pytest
from support.graphs import apply, parse, run
from support.scaling import apply_exactly, array, f, outliers, twin

from bitfold.models import tiny
from bitfold.passes.core.context import Context
from bitfold.passes.core.pipeline import Pipeline
from bitfold.passes.quantize.quantize import Quantize
from bitfold.passes.transform.equalize import Equalize, equalizing, fill

SCALES = np.exp(np.linspace(-3, 3, 32)).astype(np.float32)


def chain():
    """Three convolutions, the middle one depthwise; each channel in a scale of its own."""
    scales = np.random.default_rng(1).permutation(SCALES)
    return parse(
        """g (float[n, 64, 8, 8] x) => (float[n, 64, 8, 8] y) {
            a = Conv(x, v, bias)
            r = Relu(a)
            d = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1], group = 32>(r, w)
            s = Relu(d)
            y = Conv(s, u)
        }""",
        v=f(32, 64, 1, 1) * SCALES[:, None, None, None],
        bias=f(32) * SCALES,
        w=f(32, 1, 3, 3) / (SCALES * scales)[:, None, None, None],
        u=f(64, 32, 1, 1) * scales[:, None, None],
    )


def reach(weight, axis):
    others = tuple(each for each in range(weight.ndim) if each != axis)
    return np.abs(weight).max(others)


def test_the_factors_are_the_papers():
    write, read = np.array([[1.0, 4, 9, 1, 0]]), np.array([[4.0, 1, 9, 1, 3]])
    found = equalizing(write, read)
    np.testing.assert_allclose((write * found)[0, :4], (read / found)[0, :4])
    assert found[0, 4] == 1


def test_ranges_meet_through_relu_and_depthwise():
    model = chain()
    entry = apply_exactly(Equalize(data_free=True), model, [{"x": f(2, 64, 8, 8)}])
    assert len(entry.changes) == 2
    assert all("of them filled" in change.text for change in entry.changes)
    v, w, u = (array(model, name) for name in "vwu")
    middle = reach(w, 0)
    for write, read in ((reach(v, 0), middle), (middle, reach(u, 1))):
        ratio = write / read
        np.testing.assert_allclose(ratio, np.full(32, np.exp(np.log(ratio).mean())), rtol=0.05)
    assert reach(v, 0).max() / reach(v, 0).min() < 5 < SCALES.max() / SCALES.min()


def test_the_error_falls():
    model, samples = chain(), [{"x": f(4, 64, 8, 8)}]
    reference = twin(model, chain())
    expected = run(model, samples[0])["y"]
    options = {"weights": "int4", "group": 0, "act_granularity": "token"}
    apply_exactly(Equalize(**options), model, samples)
    errors = []
    for each in (reference, model):
        apply(Quantize(**options), each)
        errors.append(np.square(run(each, samples[0])["y"] - expected).mean())
    assert errors[1] < 0.5 * errors[0]


def test_several_writers_and_readers():
    model = parse(
        """g (float[b, 16] x) => (float[b, 8] y, float[b, 8] z) {
            a = MatMul(x, v)
            b = MatMul(x, w)
            s = Add(a, b)
            r = LeakyRelu(s)
            y = MatMul(r, t)
            z = MatMul(r, u)
        }""",
        v=f(16, 32) * SCALES,
        w=f(16, 32),
        t=f(32, 8),
        u=f(32, 8),
    )
    entry = apply_exactly(Equalize(data_free=True), model, [{"x": f(9, 16)}])
    assert "32 channels by ranges" in entry.changes[0].text
    write = np.maximum(reach(array(model, "v"), 1), reach(array(model, "w"), 1))
    read = np.maximum(reach(array(model, "t"), 0), reach(array(model, "u"), 0))
    np.testing.assert_allclose(write / read, np.full(32, (write / read).mean()), rtol=0.05)


def test_a_clip_ends_a_space():
    model = parse(
        """g (float[b, 16] x) => (float[b, 8] y) {
            a = MatMul(x, v)
            r = Clip(a, low, high)
            y = MatMul(r, t)
        }""",
        v=f(16, 32) * SCALES,
        low=np.float32(0),
        high=np.float32(6),
        t=f(32, 8),
    )
    entry = apply_exactly(Equalize(data_free=True), model, [{"x": f(9, 16)}])
    assert not entry.changes
    assert "Clip" in entry.skips[0].text


def test_even_ranges_stay():
    model = parse(
        """g (float[b, 16] x) => (float[b, 8] y) {
            a = MatMul(x, v)
            r = Relu(a)
            y = MatMul(r, t)
        }""",
        v=np.ones((16, 32), np.float32),
        t=np.ones((32, 8), np.float32),
    )
    entry = apply_exactly(Equalize(data_free=True), model, [{"x": f(9, 16)}])
    assert [skip.text for skip in entry.skips] == ["its weights fill their ranges already"]


def test_how_ranges_are_filled():
    assert fill(np.ones((1, 4)), np.ones((1, 4))) == 1
    assert fill(np.array([[1.0, 0.5]]), np.array([[0.5, 1.0]])) == pytest.approx(0.5)


def test_no_samples():
    model = chain()
    entry = apply_exactly(Equalize(), model, [])
    assert "no sample inputs" in entry.notes[0]


@pytest.mark.parametrize("data_free", [False, True])
@pytest.mark.parametrize("name", sorted(tiny.TINY))
def test_tiny_models(name, data_free):
    with Context(samples=[tiny.sample_feeds(name, 0)]) as context:
        recipe = f"canonicalize, fold-batch-norm, equalize{{data_free={str(data_free).lower()}}}"
        _, report = Pipeline(recipe, context, verify="full").run(tiny.TINY[name](0))
    assert report.passes[-1].status == "applied"


def test_outliers_of_writers_spread():
    model = parse(
        """g (float[b, 16] x) => (float[b, 8] y) {
            a = MatMul(x, v)
            r = Relu(a)
            y = MatMul(r, t)
        }""",
        v=f(16, 32) * outliers(32, (4,)),
        t=f(32, 8),
    )
    apply_exactly(Equalize(weights="int8", act_granularity="token"), model, [{"x": f(99, 16)}])
    ranges = reach(array(model, "v"), 1)
    assert ranges[4] / np.median(ranges) < 15
