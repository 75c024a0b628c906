"""Channels are reordered where groups become alike, and nothing else changes."""

import numpy as np
import pytest
from support.graphs import assert_same, census, parse, run

from bitfold.models import tiny
from bitfold.passes.core.context import Context
from bitfold.passes.core.own_coordinates import rotation_of, to_original, to_own
from bitfold.passes.core.pipeline import Pipeline
from bitfold.passes.core.recipe import Recipe
from bitfold.passes.core.report import PassEntry
from bitfold.passes.quantize.quantize import Quantize
from bitfold.passes.transform.permute import Permute, banded

RNG = np.random.default_rng(0)


def f(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def in_original(model, feeds):
    found = run(model, to_own(model.graph.inputs, feeds))
    return to_original(model.graph.outputs, found)


def permute(model, samples, **options):
    """Run the pass on a model with sample inputs; checks that the outputs stay."""
    before = [in_original(model, feeds) for feeds in samples]
    nodes = census(model)
    item = Permute(**options)
    with Context(calibration=samples) as context:
        context.entry = PassEntry(item.name, {}, item.promise.value)
        item.run(model, context)
    for feeds, expected in zip(samples, before, strict=True):
        assert_same(expected, in_original(model, feeds), 1e-5)
    assert census(model) == nodes
    return context.entry


def array(model, name):
    return model.graph.initializers[name].const_value.numpy()


def mlp(inputs=(), weight=()):
    """Outliers far from each other, in the hidden layer or in what reads it: no matter in all."""
    wide = np.ones(128, np.float32)
    wide[list(inputs)], wide[list(weight)] = 15, 1 / 15
    return parse(
        """g (float[b, 48] x) => (float[b, 40] y) {
            a = MatMul(x, up)
            c = Add(a, bias)
            h = Relu(c)
            n = RMSNormalization<axis = -1>(h, gain)
            y = MatMul(n, down)
        }""",
        up=f(48, 128) * wide, bias=f(128) * wide, gain=np.ones(128, np.float32),
        down=f(128, 40) / wide[:, None],
    )  # fmt: skip


def twice(**kinds):
    """The same model two times."""
    first, second = mlp(**kinds), mlp(**kinds)
    for name, value in first.graph.initializers.items():
        second.graph.initializers[name].const_value = value.const_value
    return first, second


def divergence(model, feeds, **scheme):
    expected = run(model, feeds)["y"]
    with Context(samples=[feeds]) as context:
        item = Quantize(**scheme)
        context.entry = PassEntry(item.name, {}, item.promise.value)
        item.run(model, context)
    return np.square(run(model, feeds)["y"] - expected).sum() / np.square(expected).sum()


def test_outliers_of_activations_come_to_share_groups():
    x = {"x": f(64, 48)}
    plain, changed = twice(inputs=(3, 40, 70, 100))
    scheme = {"weights": "int8", "acts": "int4"}
    entry = permute(changed, [x], **scheme)
    assert "128 channels by " in entry.changes[0].text
    columns = np.abs(array(changed, "up")).max(0)
    assert len(set(np.flatnonzero(columns > 10) // 32)) == 1  # all in one group
    assert divergence(changed, x, **scheme) < 0.7 * divergence(plain, x, **scheme)


def test_outliers_of_weights_come_to_share_groups():
    x = {"x": f(64, 48)}
    plain, changed = twice(weight=(3, 40, 70, 100))
    scheme = {"weights": "int4", "acts": "none"}
    entry = permute(changed, [x], **scheme)
    assert "128 channels by " in entry.changes[0].text
    rows = np.abs(array(changed, "down")).max(1)
    assert len(set(np.flatnonzero(rows > 10) // 32)) == 1
    assert divergence(changed, x, **scheme) < 0.7 * divergence(plain, x, **scheme)


def test_where_a_row_shares_a_scale_no_order_helps():
    model = mlp(inputs=(3, 40), weight=(70,))
    before = {name: array(model, name).copy() for name in ("up", "bias", "down")}
    entry = permute(model, [{"x": f(64, 48)}], group=0, act_granularity="token", acts="int4")
    assert not entry.changes
    assert "gain nothing" in entry.skips[0].text
    for name, expected in before.items():
        np.testing.assert_array_equal(array(model, name), expected)


def test_an_order_that_one_of_the_readers_loses_by_is_not_taken():
    """What gathers the outliers of one reader spreads those of the other, which fill a group."""
    x = {"x": f(64, 48)}
    gains = np.ones((2, 128), np.float32)
    gains[0, np.arange(0, 128, 32)] = 30
    gains[1, :32] = 30
    model = parse(
        """g (float[b, 48] x) => (float[b, 40] y, float[b, 40] z) {
            a = MatMul(x, up)
            h = Relu(a)
            n = Mul(h, first)
            m = Mul(h, second)
            y = MatMul(n, wy)
            z = MatMul(m, wz)
        }""",
        up=f(48, 128), first=gains[0], second=gains[1],
        wy=f(128, 40) / gains[0][:, None], wz=f(128, 40) / gains[1][:, None],
    )  # fmt: skip
    entry = permute(model, [x], weights="int8", acts="int4")
    assert not entry.changes
    assert "one of its readers would lose" in entry.skips[0].text


def test_bands_hold_every_channel_once():
    order = banded(f(300), f(300))
    assert sorted(order) == list(range(300))


def test_the_recipe_and_rotary_angles_keep_spaces():
    entry = permute(mlp(inputs=(3,)), [{"x": f(8, 48)}], spaces=("other*",))
    assert "not among the recipe's spaces" in entry.skips[0].text


def cached():
    """Two heads of values of 64 channels, in a cache; outliers are spread over each."""
    wide = np.ones(128, np.float32)
    wide[[1, 33, 70, 100]] = 15
    return parse(
        """g (float[b, s, 48] x, float[b, 2, p, 64] pk, float[b, 2, p, 64] pv)
           => (float[b, s, 40] y, float[b, 2, t, 64] nk, float[b, 2, t, 64] nv) {
            q = MatMul(x, wq)
            k = MatMul(x, wk)
            v = MatMul(x, wv)
            qr = Reshape(q, heads)
            qt = Transpose<perm = [0, 2, 1, 3]>(qr)
            kr = Reshape(k, heads)
            kt = Transpose<perm = [0, 2, 1, 3]>(kr)
            vr = Reshape(v, heads)
            vt = Transpose<perm = [0, 2, 1, 3]>(vr)
            o, nk, nv = Attention(qt, kt, vt, , pk, pv)
            ot = Transpose<perm = [0, 2, 1, 3]>(o)
            joined = Reshape(ot, flat)
            y = MatMul(joined, wo)
        }""",
        wq=f(48, 128), wk=f(48, 128), wv=f(48, 128) * wide, wo=f(128, 40) / wide[:, None],
        heads=np.array([0, 0, 2, 64]), flat=np.array([0, 0, 128]),
    )  # fmt: skip


def test_caches_are_reordered_and_say_so():
    feeds = {"x": f(1, 8, 48), "pk": f(1, 2, 5, 64), "pv": f(1, 2, 5, 64)}
    model = cached()
    entry = permute(model, [feeds], acts="int4", weights="int8")
    assert "in 2 blocks" in entry.changes[0].text
    past = next(value for value in model.graph.inputs if value.name == "pv")
    found = rotation_of(past)
    assert found is not None
    np.testing.assert_array_equal(found.sum(-1), 1)
    assert not permute(cached(), [feeds], caches=False, acts="int4", weights="int8").changes


@pytest.mark.parametrize("name", sorted(tiny.TINY))
def test_tiny_models(name):
    feeds = tiny.sample_feeds(name, 0)
    with Context(samples=[feeds]) as context:
        recipe = (*Recipe.of("canonicalize, fold-batch-norm").passes, Permute(group=16))
        _, report = Pipeline(recipe, context, verify="full").run(tiny.TINY[name](0))
    assert report.passes[-1].status == "applied"
