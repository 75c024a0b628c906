"""Statistics of channel spaces: what is planted is found, however the values are grouped."""

import numpy as np
import pytest
from scipy.stats import kurtosis
from support.graphs import census, parse

from bitfold.passes.analysis.attention_sinks import find_sinks
from bitfold.passes.analysis.sampled_values import values_on
from bitfold.passes.analysis.space_places import read_places
from bitfold.passes.analysis.space_statistics import TOKENS, kurtosis_at, measure_spaces, pooled
from bitfold.passes.analysis.spaces.survey import survey_spaces

RNG = np.random.default_rng(0)


def f(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def block(table):
    """A stream of 48 channels with an inner layer of 64, and a head."""
    return parse(
        """g (int64[b, s] ids) => (float[b, s, 20] y) {
            e = Gather(table, ids)
            n = RMSNormalization<axis = -1>(e, ones)
            a = MatMul(n, up)
            r = Relu(a)
            d = MatMul(r, down)
            h = Add(e, d)
            o = RMSNormalization<axis = -1>(h, ones)
            y = MatMul(o, head)
        }""",
        table=table,
        ones=np.ones(48, np.float32),
        up=f(48, 64),
        down=f(64, 48) * 0.1,
        head=f(48, 20),
    )


SAMPLES = [{"ids": np.arange(10).reshape(2, 5)}, {"ids": np.array([[3, 1, 4]])}]


def measured(model, samples=SAMPLES):
    surveyed = survey_spaces(model)
    found = measure_spaces(model, [each.space for each in surveyed], samples)
    return {each.kind: statistics for each, statistics in zip(surveyed, found, strict=True)}


def inner(model, name, samples=SAMPLES):
    """Rows of a value inside the graph, over the samples."""
    names = ("n", "o", "r")
    ((_, runs),) = values_on(model, names, samples)
    arrays = [found[name] for found in runs]
    return np.concatenate([array.reshape(-1, array.shape[-1]) for array in arrays])


def test_figures_are_those_of_what_linear_ops_read():
    model = block(f(20, 48))
    stream = measured(model)["residual stream"]
    rows = np.concatenate([inner(model, "n"), inner(model, "o")])
    expected = kurtosis(rows.astype(np.float64), axis=1)
    assert (stream.places, stream.tokens) == (2, 13)
    assert stream.kurtosis_median == pytest.approx(np.median(expected), rel=1e-4)
    assert stream.kurtosis_max == pytest.approx(expected.max(), rel=1e-4)
    size = np.abs(rows)
    peaks = size.max(axis=1) / np.median(size, axis=1)
    assert stream.peak_ratio_median == pytest.approx(np.median(peaks), rel=1e-4)
    assert stream.peak_ratio_max == pytest.approx(peaks.max(), rel=1e-4)
    assert 0 < stream.utilization < 1
    assert stream.massive == 0


def test_a_massive_activation_is_found_in_front_of_the_norms_that_divide_it_away():
    table = f(20, 48) * 0.1
    table[3, 7] = 4000
    plain, planted = (measured(block(each)) for each in (f(20, 48) * 0.1, table))
    stream = planted["residual stream"]
    # Token 3 comes once in either sample, in the stream in front of both norms.
    assert (stream.massive, stream.massive_channels) == (4, {7: 4})
    assert stream.kurtosis_max > 30 > 10 > plain["residual stream"].kurtosis_max
    assert stream.utilization < plain["residual stream"].utilization


def test_channels_are_those_of_the_space():
    """A reader of two spaces joined is seen as two places, each with its own channels."""
    given = f(4, 10) * 0.1
    heavy = f(10, 24) * 0.1
    heavy[:, 5] *= 1e6
    model = parse(
        """g (float[b, 10] x) => (float[b, 6] y) {
            p = MatMul(x, left)
            q = MatMul(x, right)
            c = Concat<axis = -1>(p, q)
            y = MatMul(c, head)
        }""",
        left=f(10, 16),
        right=heavy,
        head=f(40, 6),
    )
    spaces = [each.space for each in survey_spaces(model)]
    left, right = (space for space in spaces if space.readers)
    assert (left.size, right.size) == (16, 24)
    found = measure_spaces(model, [left, right], [{"x": given}])
    assert [each.massive_channels for each in found] == [{}, {5: 4}]
    assert found[0].kurtosis_max < 5 < found[1].kurtosis_max


def test_pixels_are_tokens():
    model = parse(
        """g (float[n, 3, 8, 8] x) => (float[n, 5, 8, 8] y) {
            a = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(x, v)
            y = Conv<kernel_shape = [1, 1]>(a, w)
        }""",
        v=f(12, 3, 3, 3),
        w=f(5, 12, 1, 1),
    )
    image = f(2, 3, 8, 8)
    (chain,) = [s for s in measured(model, [{"x": image}]).values() if s is not None]
    pixels = run_inner(model, "a", image).transpose(0, 2, 3, 1).reshape(-1, 12)
    assert chain.tokens == 128
    expected = kurtosis(pixels.astype(np.float64), axis=1)
    assert chain.kurtosis_max == pytest.approx(expected.max(), rel=1e-4)


def run_inner(model, name, image):
    ((_, runs),) = values_on(model, [name], [{"x": image}])
    return next(runs)[name]


def test_values_come_in_groups_that_fit():
    model = block(f(20, 48))
    names = ["n", "a", "r", "o"]
    whole = [list(runs) for _, runs in values_on(model, names, SAMPLES)]
    assert [[set(found) for found in runs] for runs in whole] == [[set(names)] * 2]
    # A sample of 10 tokens: 4 bytes by 48 or 64 channels each.
    pairs = [list(runs) for _, runs in values_on(model, names, SAMPLES, budget=10 * 4 * (48 + 64))]
    assert [list(runs[0]) for runs in pairs] == [["n", "a"], ["r", "o"]]
    single = [list(runs) for _, runs in values_on(model, names, SAMPLES, budget=1)]
    assert [list(runs[0]) for runs in single] == [[name] for name in names]
    for groups in (pairs, single):
        for number, expected in enumerate(whole[0]):
            found = {name: array for runs in groups for name, array in runs[number].items()}
            for name in names:
                np.testing.assert_array_equal(found[name], expected[name])


def test_utilization_looks_at_a_bounded_number_of_tokens(monkeypatch):
    looked = []
    monkeypatch.setattr(
        "bitfold.passes.analysis.outliers.utilization", lambda rows: looked.append(len(rows)) or 1.0
    )
    many = [{"ids": RNG.integers(0, 20, (1, 700))}, {"ids": RNG.integers(0, 20, (1, 300))}]
    found = measured(block(f(20, 48)), many)
    assert found["residual stream"].tokens == 1000
    assert set(looked) == {TOKENS}


def test_without_samples_nothing_is_measured():
    assert set(measured(block(f(20, 48)), []).values()) == {None}


def test_tokens_that_are_not_finite_are_left_out():
    table = f(20, 48)
    table[4] = np.inf
    stream = measured(block(table))["residual stream"]
    assert stream.tokens == 11
    assert np.isfinite(stream.kurtosis_max)


def test_several_spaces_as_one():
    model = block(f(20, 48))
    stream, hidden = (measured(model)[kind] for kind in ("residual stream", "hidden layer"))
    both = pooled([stream, hidden])
    assert both.kurtosis_max == max(stream.kurtosis_max, hidden.kurtosis_max)
    assert both.places == 3
    assert pooled([stream]) == stream


def test_kurtosis_alone_is_the_same():
    model = block(f(20, 48))
    (space,) = [each.space for each in survey_spaces(model) if each.kind == "residual stream"]
    (tokens,) = kurtosis_at(model, [list(read_places(space))], SAMPLES)
    assert len(tokens) == 2 * 13
    assert tokens.max() == pytest.approx(measured(model)["residual stream"].kurtosis_max, rel=1e-5)


def attention(causal):
    return parse(
        f"""g (float[b, 2, s, 8] q, float[b, 2, s, 8] k, float[b, 2, s, 8] v)
            => (float[b, 2, s, 8] y) {{
            a = Attention<is_causal = {causal}>(q, k, v)
            val_0 = Neg(a)  # names that values without any are given
            val_1 = Neg(val_0)
            val_2 = Neg(val_1)
            y = Attention<is_causal = {causal}>(q, k, val_2)
        }}"""
    )


@pytest.mark.parametrize("causal", [0, 1])
def test_sinks(causal):
    """Token 1 is one of the second head in the first of two sequences, in both layers."""
    q, k, v = np.ones((2, 2, 6, 8), np.float32), f(2, 2, 6, 8) * 0.01, f(2, 2, 6, 8)
    model, feeds = attention(causal), {"q": q, "k": k, "v": v}
    k[0, 1, 1] = 4
    found = find_sinks(model, [feeds])
    assert found.attentions == 4
    assert found.tokens == {1: 2}
    assert set(census(model)) == {"Neg", "Attention"}  # the model is as it was
    k[0, 1, 1] = 0
    assert find_sinks(model, [feeds]).tokens == {}


def test_models_without_attention_have_no_sinks():
    assert find_sinks(block(f(20, 48)), SAMPLES).attentions == 0
