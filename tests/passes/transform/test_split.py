"""Outlier channels are split where that pays, and nothing else changes."""

import numpy as np
import pytest
from support.graphs import assert_same, census, parse, run

from bitfold.models import tiny
from bitfold.passes.analysis.sites import find_sites
from bitfold.passes.core.context import Context
from bitfold.passes.core.pipeline import Pipeline
from bitfold.passes.core.recipe import Recipe
from bitfold.passes.core.report import PassEntry
from bitfold.passes.quantize.quantize import Quantize
from bitfold.passes.quantize.rounding import round_to_nearest
from bitfold.passes.transform.split import Split
from bitfold.passes.transform.splitting import Ranges, choose, offsets, parted, total_drops
from bitfold.runtime.formats.scheme import WeightScheme

RNG = np.random.default_rng(0)


def f(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def outliers(size, places, strength=12.0):
    found = np.ones(size, np.float32)
    found[list(places)] = strength
    return found


def split(model, samples, **options):
    """Run the pass on a model with sample inputs; checks that the outputs stay."""
    before = [run(model, feeds) for feeds in samples]
    nodes = census(model)
    item = Split(**{"budget": 1.0, **options})
    with Context(calibration=samples) as context:
        context.entry = PassEntry(item.name, {}, item.promise.value)
        item.run(model, context)
    for feeds, expected in zip(samples, before, strict=True):
        assert_same(expected, run(model, feeds), 1e-5)
    assert census(model) == nodes
    return context.entry


def array(model, name):
    return model.graph.initializers[name].const_value.numpy()


def mlp(function="Gelu", weight=(), inputs=()):
    """Outliers in what reads the hidden layer, and in the layer itself."""
    return parse(
        f"""g (float[b, 48] x) => (float[b, 40] y) {{
            a = MatMul(x, up)
            h = {function}(a)
            y = MatMul(h, down)
        }}""",
        up=f(48, 64) * outliers(64, inputs),
        down=f(64, 40) * outliers(64, weight)[:, None],
    )


def divergence(model, feeds, **scheme):
    """Squared error of the quantized model, over the signal."""
    expected = run(model, feeds)["y"]
    with Context(samples=[feeds]) as context:
        item = Quantize(symmetric=True, **scheme)
        context.entry = PassEntry(item.name, {}, item.promise.value)
        item.run(model, context)
    return np.square(run(model, feeds)["y"] - expected).sum() / np.square(expected).sum()


def test_shares_rounded_add_up_to_the_whole_rounded():
    """For any number of copies, zero points or none."""
    rows = f(30, 24)
    copies = RNG.choice([1, 1, 2, 3, 5], 24)
    for symmetric in (True, False):
        scheme = WeightScheme("int8", 0, symmetric, "f32")
        shares = parted(rows, copies, scheme)
        starts = np.cumsum(copies) - copies
        whole = np.add.reduceat(shares, starts, 1)
        np.testing.assert_allclose(whole, rows, atol=1e-5)
        steps = 0.01
        moved = np.repeat(rows / copies, copies, 1) + steps * offsets(copies, len(shares[0]))
        codes = np.add.reduceat(np.round(moved / steps), starts, 1)
        np.testing.assert_array_equal(codes, np.round(rows / steps))
        error = np.add.reduceat(round_to_nearest(shares, scheme).dequantize(), starts, 1) - rows
        step = round_to_nearest(shares, scheme).scales
        assert np.abs(error).max() < 0.6 * step.max()


def test_shares_in_groups_of_different_steps_add_up():
    rows = f(4, 24) * outliers(24, (20,))
    copies = np.ones(24, int)
    copies[[3, 14, 20]] = 2, 2, 3
    shares = parted(rows, copies, WeightScheme("int4", 16, False))
    np.testing.assert_allclose(np.add.reduceat(shares, np.cumsum(copies) - copies, 1), rows, 1e-5)
    assert (shares[:, 3] != shares[:, 4]).all()  # in one group
    np.testing.assert_array_equal(shares[:, 15], shares[:, 16])  # in two


def test_uneven_levels_are_split_in_halves():
    shares = parted(f(3, 4), np.array([1, 2, 1, 1]), WeightScheme("nf4", 0, True))
    np.testing.assert_array_equal(shares[:, 1], shares[:, 2])


def test_the_channels_that_set_ranges_are_chosen():
    rows = f(20, 32) * outliers(32, (3, 17))
    part = Ranges(rows, 32, np.ones(32), np.arange(32), 1.0, True, False)
    counts = choose(total_drops([part]), 32, 4)
    assert counts.sum() == 36
    assert counts[3] > 1 < counts[17]
    assert counts[[3, 17]].sum() == 6


def test_drops_are_what_happens_to_ranges():
    """One group, one row: (width^2 - width'^2) times the number of columns."""
    for symmetric, expected in ((True, 36 - 9), (False, 64 - 25)):
        part = Ranges(
            np.array([[6.0, -2.0, 1.0]]), 3, np.ones(3), np.arange(3), 3.0, symmetric, False
        )
        drops = part.drops(np.ones(3, int))
        assert drops[0] == pytest.approx(expected)
        assert drops[2] == 0


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_weight_side_narrows_ranges_behind_any_function(symmetric):
    x = {"x": f(64, 48)}
    model = mlp(weight=(5, 40))
    entry = split(model, [x], side="weight", group=0, acts="none", symmetric=symmetric)
    assert "64 -> 80 channels, weight side" in entry.changes[0].text
    down = array(model, "down")
    assert down.shape == (80, 40)
    assert np.abs(down).max() < 0.7 * 12 * 3
    assert array(model, "up").shape == (48, 80)


@pytest.mark.parametrize("side", ["weight", "best"])
def test_the_quantized_model_is_closer(side):
    x = {"x": f(64, 48)}
    plain, changed = (mlp(weight=(5, 40, 41)) for _ in range(2))
    for name, value in plain.graph.initializers.items():
        changed.graph.initializers[name].const_value = value.const_value
    scheme = {"group": 0, "acts": "none"}
    split(changed, [x], side=side, symmetric=True, **scheme)
    assert divergence(changed, x, **scheme) < 0.7 * divergence(plain, x, **scheme)


def test_the_activation_side_halves_what_scales_pass_through():
    x = {"x": f(64, 48)}
    plain, changed = (mlp("Relu", inputs=(5, 40)) for _ in range(2))
    for name, value in plain.graph.initializers.items():
        changed.graph.initializers[name].const_value = value.const_value
    scheme = {"weights": "int8", "acts": "int4", "act_granularity": "token", "group": 0}
    entry = split(changed, [x], side="activation", **scheme)
    assert "activation side" in entry.changes[0].text
    assert np.abs(array(changed, "up")).max() < 0.7 * np.abs(array(plain, "up")).max()
    assert divergence(changed, x, **scheme) < 0.8 * divergence(plain, x, **scheme)
    refused = split(mlp("Gelu", inputs=(5, 40)), [x], side="activation", **scheme)
    assert not refused.changes  # no half of a GELU is the GELU of a half


def test_nothing_is_split_where_that_does_not_pay():
    """Narrower weights are of no use where the inputs' rounding is what costs."""
    model = mlp()
    before = {name: array(model, name).copy() for name in ("up", "down")}
    coarse = {"weights": "int8", "acts": "int2", "act_granularity": "token"}
    entry = split(model, [{"x": f(64, 48)}], **coarse)
    assert not entry.changes
    assert "gain nothing" in entry.skips[0].text
    for name, expected in before.items():
        np.testing.assert_array_equal(array(model, name), expected)


def test_the_budget_is_kept():
    x = {"x": f(64, 48)}
    entry = split(mlp(weight=(5,)), [x], budget=0.2, group=0, acts="none")
    assert not entry.changes
    assert entry.skips[0].text == "beyond the budget"


def test_norms_and_the_recipe_keep_spaces():
    model = parse(
        """g (float[b, 48] x) => (float[b, 40] y) {
            a = MatMul(x, up)
            h = RMSNormalization<axis = -1>(a, gain)
            y = MatMul(h, down)
        }""",
        up=f(48, 64), gain=f(64), down=f(64, 40),
    )  # fmt: skip
    entry = split(model, [{"x": f(8, 48)}])
    assert "RMSNormalization" in entry.skips[0].text
    entry = split(mlp(weight=(5,)), [{"x": f(8, 48)}], spaces=("other*",))
    assert "not among the recipe's spaces" in entry.skips[0].text


@pytest.mark.parametrize("name", sorted(tiny.TINY))
@pytest.mark.parametrize("side", ["weight", "activation", "best"])
def test_tiny_models(name, side):
    feeds = tiny.sample_feeds(name, 0)
    with Context(samples=[feeds]) as context:
        folds = "canonicalize, fold-batch-norm, fold-norm-gain"
        options = {"acts": "int4", "act_granularity": "token", "group": 0}
        recipe = (*Recipe.of(folds).passes, Split(budget=1.0, side=side, **options))
        model, report = Pipeline(recipe, context, verify="full").run(tiny.TINY[name](0))
    if side != "activation":
        assert report.passes[-1].status == "applied"
    assert all(site.weight().size for site in find_sites(model))


def test_a_reader_of_two_split_layers():
    """Its columns move apart where each layer's shares are, however far the other's push them."""
    model = parse(
        """g (float[b, 48] x) => (float[b, 40] y) {
            a = MatMul(x, left)
            b2 = MatMul(x, right)
            h = Relu(a)
            i = Tanh(b2)
            both = Concat <axis = 1> (h, i)
            y = MatMul(both, down)
        }""",
        left=f(48, 64),
        right=f(48, 64),
        down=f(128, 40) * outliers(128, (3, 70, 71))[:, None],
    )
    entry = split(model, [{"x": f(64, 48)}], weights="int4", group=16, side="weight")
    assert len(entry.changes) == 2
    assert array(model, "down").shape == (160, 40)
