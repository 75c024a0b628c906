"""Statistics of channels are those of the values themselves."""

import numpy as np
import onnx_ir as ir
import pytest
from support.graphs import parse

from bitfold.passes.analysis.activations import channel_statistics
from bitfold.passes.core.own_coordinates import add_rotation
from bitfold.runtime.execution import open_session

RNG = np.random.default_rng(0)


def f(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


IMAGES = """g (float[n, 4, h, w] x) => (float[n, 6, a, b] y) {
    r = Relu(x)
    y = Conv(r, v)
}"""


def test_statistics_over_images():
    model = parse(IMAGES, v=f(6, 4, 3, 3))
    samples = [{"x": f(2, 4, 9, 8)}, {"x": f(1, 4, 6, 11)}]
    before = ir.to_proto(model).SerializeToString()
    found = channel_statistics(model, {"x": (1,), "r": (1,)}, samples)
    assert ir.to_proto(model).SerializeToString() == before
    session = open_session(model, outputs=["r"])
    for name, arrays in {
        "x": [sample["x"] for sample in samples],
        "r": [session.run(sample)["r"] for sample in samples],
    }.items():
        rows = [array.transpose(0, 2, 3, 1).reshape(-1, 4) for array in arrays]
        seen = found[name]
        np.testing.assert_array_equal(seen.low, np.concatenate(rows).min(0))
        np.testing.assert_array_equal(seen.high, np.concatenate(rows).max(0))
        np.testing.assert_array_equal(seen.reach, np.abs(np.concatenate(rows)).max(0))
        # Each sample counts the same, however large it is.
        means = np.mean([each.mean(0) for each in rows], axis=0)
        np.testing.assert_allclose(seen.mean, means, rtol=1e-4, atol=1e-6)
        magnitudes = np.mean([np.abs(each).mean(0) for each in rows], axis=0)
        np.testing.assert_allclose(seen.magnitude, magnitudes, rtol=1e-4)
        assert seen.rows.shape == (0, 4)
        assert seen.finite


@pytest.mark.parametrize(("axes", "order"), [((1,), (0, 2, 3, 1)), ((1, 3), (0, 2, 1, 3))])
def test_rows_come_from_all_samples(axes, order):
    model = parse(IMAGES, v=f(6, 4, 3, 3))
    width = 9 if axes == (1, 3) else 1
    samples = [{"x": f(2, 4, 30, 9)}, {"x": f(1, 4, 40, 9)}]
    rows = channel_statistics(model, {"x": axes}, samples, rows=10)["x"].rows
    assert rows.shape == (10, 4 * width)
    for part, sample in ((rows[:5], samples[0]), (rows[5:], samples[1])):
        table = sample["x"].transpose(order).reshape(-1, 4 * width)
        places = [int(np.flatnonzero((table == row).all(1))[0]) for row in part]
        step = len(table) / 5
        assert [int(place / step) for place in places] == list(range(5))


def test_a_sample_without_rows_says_nothing():
    """A decoder whose cache holds the encoder's frames gets none of them anew."""
    model = parse("g (float[b, s, 4] x) => (float[b, s, 2] y) { y = MatMul(x, w) }", w=f(4, 2))
    full, empty = {"x": f(1, 7, 4)}, {"x": f(1, 0, 4)}
    for samples in ([full, empty], [empty, full]):
        seen = channel_statistics(model, {"x": (2,)}, samples, rows=10)["x"]
        np.testing.assert_array_equal(seen.low, full["x"].min((0, 1)))
        np.testing.assert_allclose(seen.mean, full["x"].mean((0, 1)), rtol=1e-5)
        np.testing.assert_allclose(seen.magnitude, np.abs(full["x"]).mean((0, 1)), rtol=1e-5)
        assert seen.rows.shape == (5, 4)
        assert seen.finite
    seen = channel_statistics(model, {"x": (2,)}, [empty], rows=10)["x"]
    assert not seen.finite
    assert seen.rows.shape == (0, 4)


def test_a_vector_is_one_row():
    model = parse("g (float[6] x) => (float[6] y) { y = Relu(x) }")
    x = f(6)
    seen = channel_statistics(model, {"x": (-1,)}, [{"x": x}], rows=2)["x"]
    np.testing.assert_array_equal(seen.rows, [x, x])
    np.testing.assert_allclose(seen.magnitude, np.abs(x), rtol=1e-6)


def test_infinite_channels_are_known():
    model = parse("g (float[b, 3] x) => (float[b, 3] y) { y = Log(x) }")
    x = np.array([[1, 2, 0], [1, 1, 1]], np.float32)
    assert not channel_statistics(model, {"y": (-1,)}, [{"x": x}])["y"].finite


def test_inputs_come_in_the_original_coordinates():
    model = parse("g (float[b, 2, p, 3] x) => (float[b, 2, p, 3] y) { y = Relu(x) }")
    scales = np.array([[1, 2, 4], [1, 1, 1]], np.float32)[:, :, None] * np.eye(3)
    add_rotation(model.graph.inputs[0], scales)
    x = np.abs(f(1, 2, 5, 3))
    seen = channel_statistics(model, {"y": (1, 3)}, [{"x": x}])["y"]
    reach = x.max((0, 2)) * [[1, 2, 4], [1, 1, 1]]
    np.testing.assert_allclose(seen.high, reach.reshape(-1), rtol=1e-6)


def test_nothing_to_see():
    model = parse("g (float[6] x) => (float[6] y) { y = Relu(x) }")
    assert channel_statistics(model, {}, [{"x": f(6)}]) == {}
    assert channel_statistics(model, {"x": (0,)}, []) == {}
