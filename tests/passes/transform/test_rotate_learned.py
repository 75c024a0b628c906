"""Learned rotations are exact, and round better than random ones."""

from dataclasses import replace

import numpy as np
import pytest
from support.graphs import apply, assert_same, parse, run

from bitfold.models import tiny
from bitfold.passes.core.context import Context
from bitfold.passes.core.pipeline import Pipeline
from bitfold.passes.core.recipe import Recipe
from bitfold.passes.core.report import PassEntry
from bitfold.passes.quantize.rounding import round_to_nearest
from bitfold.passes.transform.learn.descend import descend
from bitfold.passes.transform.learn.gather import variation
from bitfold.passes.transform.learn.terms import AcrossRows, AlongRows, spread
from bitfold.passes.transform.learn.turn import Places
from bitfold.passes.transform.rotate import Rotate
from bitfold.passes.transform.rotate_learned import RotateLearned
from bitfold.runtime.execution import open_session
from bitfold.runtime.formats.scheme import QuantScheme
from bitfold.runtime.reference.lowbit_matmul import quantize_activations

RNG = np.random.default_rng(0)
N = 32


def f(*shape, scale=1.0):
    return (scale * RNG.standard_normal(shape)).astype(np.float32)


def orthogonal(*shape):
    return np.linalg.qr(RNG.standard_normal(shape))[0]


WHOLE = Places((0,), np.arange(N)[None], N)
HEADS = Places((1, 0, 0), np.arange(4, 28).reshape(3, 8), 40)
"""Three views of two blocks of 8 channels, among 40 columns."""


def term(kind, places, group, even):
    width = places.width
    if kind == "along":
        return AlongRows(f(6, width), f(5, width), places, group, 7.0, 0.3, even)
    return AcrossRows(f(24, width), f(24) ** 2, places, min(group, 12), 7.5, 0.3, even)


@pytest.mark.parametrize("even", [True, False])
@pytest.mark.parametrize("group", [8, 12, 64])
@pytest.mark.parametrize("places", [WHOLE, HEADS])
@pytest.mark.parametrize("kind", ["along", "across"])
def test_gradients(kind, places, group, even):
    part = term(kind, places, group, even)
    blocks, size = max(places.blocks) + 1, places.columns.shape[1]
    at = orthogonal(blocks, size, size)
    exact = {name: v.astype(float) for name, v in vars(part).items() if isinstance(v, np.ndarray)}
    part = replace(part, **exact)
    _, gradient = part.cost(at, None, 99)
    way = RNG.standard_normal(at.shape)
    way = at @ (way - way.swapaxes(-1, -2))  # along rotations
    step = 1e-6
    costs = [part.cost(at + sign * step * way, None, 99)[0] for sign in (1, -1)]
    np.testing.assert_allclose(
        (gradient * way).sum(), (costs[0] - costs[1]) / (2 * step), rtol=1e-4
    )


def test_spread_is_about_the_largest():
    values = f(100, 64)
    largest, _ = spread(values, True)
    assert np.all(largest >= np.abs(values).max(-1) * 0.999)
    assert np.all(largest <= np.abs(values).max(-1) * 1.3)
    half, _ = spread(values + 10, False)
    assert np.all(half > 5)  # from zero on, as zero points have it
    np.testing.assert_array_equal(spread(np.zeros((2, 4)), False)[1], 0)


def test_descent_lowers_the_cost_and_stays_orthogonal():
    rows = f(200, N) * np.where(np.arange(N) == 3, 20, 1).astype(np.float32)
    part = AlongRows(rows, f(5, N), WHOLE, N, 7.0, 1.0)
    start = orthogonal(1, N, N)
    found = descend(lambda r, rng: part.cost(r, rng, 64), start, 60, np.random.default_rng(0))
    np.testing.assert_allclose(found[0] @ found[0].T, np.eye(N), atol=1e-12)
    before, after = (part.cost(r.astype(np.float32), None, 200)[0] for r in (start, found))
    assert after < 0.9 * before


def test_descent_that_finds_nothing_better_returns_the_start():
    start = orthogonal(1, N, N)
    found = descend(
        lambda r, rng: (float(np.abs(r - start).sum()), f(1, N, N)),
        start,
        5,
        np.random.default_rng(0),
    )
    np.testing.assert_array_equal(found, start)


def test_what_all_rows_share_is_no_variation():
    x = f(50, 8)
    x[:, 0] = 1
    weight = f(6, 8)
    shifted = weight.copy()
    shifted[:, 0] += 100
    np.testing.assert_allclose(variation(x, shifted), variation(x, weight), rtol=1e-4)


OUTLIERS = np.where(np.isin(np.arange(64), [5, 40]), 12, 1).astype(np.float32)


def stream(seed=0, border=False):
    """A residual stream with two channels that stand out."""
    tail = "y = RMSNormalization<axis = -1>(h, gain)" if border else "y = MatMul(o, head)"
    rng = np.random.default_rng(seed)

    def w(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    own = {"gain": w(64)} if border else {"head": w(64, 30)}
    return parse(
        f"""g (int64[b, s] ids) => (float[b, s, v] y) {{
            e = Gather(table, ids)
            n = RMSNormalization<axis = -1>(e, ones)
            a = MatMul(n, up)
            r = Gelu(a)
            d = MatMul(r, down)
            h = Add(e, d)
            o = RMSNormalization<axis = -1>(h, ones)
            z = MatMul(o, head2)
            {tail}
        }}""",
        table=w(50, 64) * OUTLIERS,
        ones=np.ones(64, np.float32),
        up=w(64, 96),
        down=w(96, 64) * 0.1,
        head2=w(64, 30),
        **own,
    )


IDS = {"ids": np.random.default_rng(1).integers(0, 50, (4, 32))}
OTHERS = {"ids": np.random.default_rng(2).integers(0, 50, (4, 32))}


def learn(model, feeds=IDS, seed=0, **options):
    with Context(calibration=[feeds] if feeds else [], seed=seed) as context:
        item = RotateLearned(**options)
        context.entry = PassEntry(item.name, {}, item.promise.value)
        item.run(model, context)
        return context.entry


def rounding_error(model, scheme):
    """Relative error of ``a = n up`` and ``z = o head2``, rounded, on other inputs."""
    inner = open_session(model, outputs=["n", "o"]).run(OTHERS)
    total = 0.0
    for name, weight in (("n", "up"), ("o", "head2")):
        x = inner[name].reshape(-1, 64)
        w = model.graph.initializers[weight].const_value.numpy().T
        size = scheme.act_group_size(64)
        codes, scales = quantize_activations(x, size, scheme.act_bits)
        rounded = codes * np.repeat(scales, size, axis=1)
        weights = (
            round_to_nearest(w, scheme.weight).dequantize() if scheme.weight.number.bits < 8 else w
        )
        total += np.square(rounded @ weights.T - x @ w.T).sum() / np.square(x @ w.T).sum()
    return float(total)


@pytest.mark.parametrize(
    "options",
    [
        {"act_granularity": "token"},
        {"group": 16},
        {"weights": "int4", "group": 32},
        {"weights": "int3", "group": 0, "act_granularity": "token", "acts": "int8"},
    ],
)
def test_rounds_better_than_random(options):
    base = stream()
    before = run(base, OTHERS)
    scheme: QuantScheme = RotateLearned(**options)._quantizer().scheme(False)
    random, learned = [], []
    for seed in range(3):
        model = stream()
        with Context(seed=seed) as context:
            Rotate().run(model, context)
        random.append(rounding_error(model, scheme))
        model = stream()
        entry = learn(model, seed=seed, **options)
        learned.append(rounding_error(model, scheme))
        assert_same(before, run(model, OTHERS), 1e-4)
        assert "learned" in entry.notes[0]
    assert np.mean(learned) < 0.9 * np.mean(random)
    assert max(learned) < min(random)


def test_best_of_many():
    errors = []
    for tries in (1, 30):
        model = stream()
        entry = learn(model, tries=tries, steps=0, act_granularity="token")
        errors.append(float(entry.notes[0].split(" the best")[0].split()[-1]))
    assert errors[1] < errors[0]


def test_a_space_with_a_border_keeps_a_hadamard_matrix():
    model = stream(border=True)
    before = run(model, OTHERS)
    entry = learn(model)
    assert_same(before, run(model, OTHERS), 1e-4)
    assert "1 border" in entry.changes[0].text
    assert "learned" not in entry.notes[0]


def test_without_samples():
    model, other = stream(), stream()
    entry = learn(model, feeds=None)
    assert entry.notes == ["no sample inputs: rotations are random"]
    apply(Rotate(), other)
    for name, value in model.graph.initializers.items():
        np.testing.assert_array_equal(
            value.const_value.numpy(), other.graph.initializers[name].const_value.numpy()
        )


def test_same_seed_same_bytes():
    first, second = stream(), stream()
    learn(first, steps=5), learn(second, steps=5)
    for name, value in first.graph.initializers.items():
        expected = second.graph.initializers[name].const_value.numpy()
        np.testing.assert_array_equal(value.const_value.numpy(), expected)


@pytest.mark.parametrize("name", sorted(tiny.TINY))
def test_tiny_models(name):
    feeds = tiny.sample_feeds(name, 0)
    with Context(samples=[feeds]) as context:
        folds = "canonicalize, fold-batch-norm, fold-norm-gain, ln-to-rms"
        learned = RotateLearned(weights="int4", steps=10, online=("*",))
        recipe = (*Recipe.of(folds).passes, learned)
        _, report = Pipeline(recipe, context, verify="full").run(tiny.TINY[name](0))
    assert report.passes[-1].status == "applied"
