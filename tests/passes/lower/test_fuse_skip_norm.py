"""Residual sums and norms fuse into ORT's skip norms; refusals say why."""

import numpy as np
import pytest
from support.graphs import apply, assert_same, census, parse, run, text_of

from bitfold.models import tiny
from bitfold.passes.canonicalize.canonicalize import Canonicalize
from bitfold.passes.lower.fuse_skip_norm import FuseSkipNorm

RNG = np.random.default_rng(0)
K = 16


def f(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    ("norm", "fused"),
    [
        ("RMSNormalization<epsilon = 0.01>(t, gain)", "SkipSimplifiedLayerNormalization"),
        ("LayerNormalization<epsilon = 0.01>(t, gain)", "SkipLayerNormalization"),
        ("LayerNormalization<epsilon = 0.01>(t, gain, bias)", "SkipLayerNormalization"),
    ],
)
@pytest.mark.parametrize("shape", [(2, 3, K), (5, K)])
def test_golden(norm, fused, shape):
    dims = "b, s" if len(shape) == 3 else "r"
    model = parse(
        f"""g (float[{dims}, {K}] x, float[{dims}, {K}] z)
            => (float[{dims}, {K}] y, float[{dims}, {K}] u) {{
            t = Add(x, z)
            u = Abs(t)
            y = {norm}
        }}""",
        gain=f(K),
        **({"bias": f(K)} if "bias" in norm else {}),
    )
    feeds = {"x": f(*shape), "z": f(*shape)}
    before = run(model, feeds)
    assert apply(FuseSkipNorm(layer_norm=True), model).status == "applied"
    bias = ", bias" if "bias" in norm else ""
    assert text_of(model) == [f"y, , , t = {fused}(x, z, gain{bias})", "u = Abs(t)"]
    assert_same(before, run(model, feeds))


@pytest.mark.parametrize(
    ("z", "norm", "reason"),
    [
        (f"b, 1, {K}", "RMSNormalization(t, gain)", "broadcasts"),
        (f"{K}", "RMSNormalization(t, gain)", "broadcasts"),
        (f"b, s, {K}", "RMSNormalization<axis = 1>(t, gain)", "not over a last axis"),
        (f"b, s, {K}", "LayerNormalization(t, gain)", "slower"),
    ],
)
def test_refusals(z, norm, reason):
    model = parse(
        f"""g (float[b, s, {K}] x, float[{z}] z) => (float[b, s, {K}] y) {{
            t = Add(x, z)
            y = {norm}
        }}""",
        gain=f(K),
    )
    before = text_of(model)
    entry = apply(FuseSkipNorm(), model)
    assert (entry.status, text_of(model)) == ("unchanged", before)
    assert reason in entry.skips[0].text


def test_a_bias_is_no_residual():
    model = parse(
        f"""g (float[b, s, {K}] x) => (float[b, s, {K}] y) {{
            t = Add(x, bias)
            y = RMSNormalization(t, gain)
        }}""",
        gain=f(K),
        bias=f(K),
    )
    entry = apply(FuseSkipNorm(), model)
    assert "not the sum of two float activations" in entry.skips[0].text


def test_tiny_decoder():
    model = tiny.TINY["decoder"](2)
    feeds = tiny.sample_feeds("decoder", 2)
    apply(Canonicalize(), model)
    before = run(model, feeds)
    apply(FuseSkipNorm(), model)
    found = census(model)
    assert (found["SkipSimplifiedLayerNormalization"], found["RMSNormalization"]) == (4, 1)
    assert_same(before, run(model, feeds))
