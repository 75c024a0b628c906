"""Hadamards in front of convolutions cancel, and are put where they pay."""

import numpy as np
import pytest
from support.graphs import assert_same, census, parse, run

from bitfold.models import tiny
from bitfold.passes.core.context import Context
from bitfold.passes.core.pipeline import Pipeline
from bitfold.passes.core.recipe import Recipe
from bitfold.passes.core.report import PassEntry
from bitfold.passes.transform.hada_conv import HadaConv
from bitfold.runtime.errors import RecipeError

RNG = np.random.default_rng(0)


def f(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def conv(groups=1, kernel=1, strength=30.0):
    """Two channels of outliers in what a convolution reads, light in its weight."""
    wide = np.ones(64, np.float32)
    wide[[3, 40]] = strength
    per = 64 // groups
    light = np.tile(wide.reshape(groups, 1, per), (1, 32 // groups, 1)).reshape(32, per, 1, 1)
    return parse(
        f"""g (float[b, 8, 6, 6] x) => (float[b, 32, 6, 6] y) {{
            a = Conv(x, first)
            h = Tanh(a)
            m = Mul(h, wide)
            y = Conv<group = {groups}, pads = [{", ".join([str(kernel // 2)] * 4)}]>(m, w, bias)
        }}""",
        first=f(64, 8, 1, 1), wide=wide[:, None, None], bias=f(32),
        w=f(32, per, kernel, kernel) / light,
    )  # fmt: skip


def turn(model, feeds, **options):
    before = run(model, feeds)
    item = HadaConv(**options)
    with Context(calibration=[feeds]) as context:
        context.entry = PassEntry(item.name, {}, item.promise.value)
        item.run(model, context)
    assert_same(before, run(model, feeds), 1e-5)
    return context.entry


@pytest.mark.parametrize(("groups", "kernel"), [(1, 1), (2, 1), (1, 3), (4, 3)])
def test_they_cancel_in_any_convolution(groups, kernel):
    model = conv(groups, kernel)
    entry = turn(model, {"x": f(2, 8, 6, 6)}, acts="int8", act_granularity="token", weights="int8")
    assert "blocks of 16" in entry.changes[0].text
    assert census(model)["Hadamard"] == 1
    before, after = (
        float(part.split()[0]) for part in entry.changes[0].text.split("SQNR ")[1].split(" -> ")
    )
    assert after > before + 1


def test_where_nothing_stands_out_they_are_left_out():
    model = conv(strength=1.0)
    entry = turn(model, {"x": f(2, 8, 6, 6)}, acts="int8", act_granularity="token", weights="int8")
    assert not entry.changes
    assert census(model)["Hadamard"] == 0
    assert "too little" in entry.skips[-1].text


def test_refusals():
    entry = turn(conv(), {"x": f(2, 8, 6, 6)}, sites=("w",), block=128)
    assert {skip.text for skip in entry.skips} == {
        "not among the recipe's sites", "no blocks of 128 channels fit into its groups"
    }  # fmt: skip
    with pytest.raises(RecipeError, match="power of two"):
        HadaConv(block=12)


def test_the_tiny_convolutional_model():
    feeds = tiny.sample_feeds("cnn", 0)
    with Context(samples=[feeds]) as context:
        recipe = (*Recipe.of("canonicalize, fold-batch-norm").passes, HadaConv(block=4))
        Pipeline(recipe, context, verify="full").run(tiny.TINY["cnn"](0))
