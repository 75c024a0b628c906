"""Weights of tokens: NumPy's own, and the same however a graph says attention."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from scipy.special import softmax
from support.graphs import apply, parse

from bitfold.models.tiny import TINY, sample_feeds
from bitfold.passes.analysis.sites import Site, find_sites
from bitfold.passes.calibrate.attention_received import LEAST
from bitfold.passes.calibrate.token_weights import Tokens, token_weights
from bitfold.passes.calibrate.walk import walk
from bitfold.passes.canonicalize.canonicalize import Canonicalize
from bitfold.passes.core.context import Feeds
from bitfold.passes.fuse.merge_siblings import MergeSiblings
from bitfold.passes.lower.fuse_attention import FuseAttention
from bitfold.passes.quantize.quantize import Quantize
from bitfold.runtime.execution import open_session

RNG = np.random.default_rng(0)
HEADS, HEAD = 3, 4
K = HEADS * HEAD


def f(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


W = {name: f(K, K) for name in ("wq", "wk", "wv", "wo", "wm", "wn")}


def block() -> ir.Model:
    """Attention, its stream, a norm and a product behind it, and one more that nothing norms."""
    return parse(
        f"""g (float[b, t, {K}] x) => (float[b, t, {K}] y) {{
            q = MatMul(x, wq)
            k = MatMul(x, wk)
            v = MatMul(x, wv)
            a = Attention <q_num_heads = {HEADS}, kv_num_heads = {HEADS}, is_causal = 1> (q, k, v)
            o = MatMul(a, wo)
            p = Add(o, bias)
            s = Add(x, p)
            n = RMSNormalization <epsilon = 0.25> (s, gain)
            m = MatMul(n, wm)
            y = MatMul(m, wn)
        }}""",
        gain=np.ones(K, np.float32),
        bias=f(K),
        **W,
    )


def values_of(model: ir.Model, feeds: Feeds, *names: str) -> list[np.ndarray]:
    found = open_session(model, outputs=names, optimize=False).run(feeds)
    return [found[name] for name in names]


def sites_of(model: ir.Model) -> list[Site]:
    return [site for site in find_sites(model) if site.kind != "gather"]


def grams(model: ir.Model, samples: list[Feeds], tokens: Tokens) -> dict[str, np.ndarray]:
    """The Gram matrix of each site, by the name of its output."""
    sites = sites_of(model)
    steps = walk(model, sites, samples, token_weights(model, sites, tokens))
    return {str(s.node.outputs[0].name): step.gram(s) for step in steps for s in step.sites}


def weighted(rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    flat, each = rows.reshape(-1, rows.shape[-1]).astype(np.float64), weights.reshape(-1, 1)
    return flat.T @ (each * flat) / each.sum()


def attention_got(x: np.ndarray) -> np.ndarray:
    """Attention [b, t] that the tokens x of :func:`block` get, in sum."""
    b, t, _ = x.shape
    q, k = ((x @ W[name]).reshape(b, t, HEADS, HEAD).swapaxes(1, 2) for name in ("wq", "wk"))
    scores = q @ k.swapaxes(2, 3) / np.sqrt(HEAD) + np.triu(np.full((t, t), -np.inf), 1)
    return softmax(scores, -1).sum((1, 2))


def received(x: np.ndarray) -> np.ndarray:
    """Weights [b, t] of the tokens x of :func:`block`."""
    got = attention_got(x)
    low, high = got.min(1, keepdims=True), got.max(1, keepdims=True)
    return LEAST + (1 - LEAST) * (got - low) / (high - low)


def test_attention_received() -> None:
    model, x = block(), f(2, 7, K)
    found = grams(model, [{"x": x}], "attention")
    a, n = values_of(model, {"x": x}, "a", "n")
    for output, rows in {"q": x, "k": x, "v": x, "o": a, "m": n}.items():
        expected = weighted(rows, received(x))
        np.testing.assert_allclose(found[output], expected, rtol=1e-4, atol=1e-5)


def test_uses_count_where_there_is_a_sink() -> None:
    """One sequence has a token that all look at; in the other all count alike, as much in sum."""
    x = f(2, 64, K)
    wq, wk = W["wq"][:, :HEAD], W["wk"][:, :HEAD]
    x[1] *= 0.01
    x[0, 0] = 100 * np.linalg.lstsq(wk.T, wq.T @ x[0].mean(0), rcond=None)[0]
    looks = attention_got(x) / HEADS
    assert looks[0].max() > 16 > looks[1].max()
    model = block()
    found = grams(model, [{"x": x}], "uses")
    weights = 1 + np.stack([looks[0], np.ones(64)])
    np.testing.assert_allclose(found["q"], weighted(x, weights), rtol=1e-4, atol=1e-4)
    n, m = values_of(model, {"x": x}, "n", "m")
    for output, rows in {"m": n, "y": m}.items():  # no attention is behind them
        expected = weighted(rows, np.ones(x.shape[:2]))
        np.testing.assert_allclose(found[output], expected, rtol=1e-4, atol=1e-4)


def test_what_a_norm_divides_by() -> None:
    model, x = block(), f(2, 7, K) * np.exp(f(2, 7, 1))
    found = grams(model, [{"x": x}], "inverse-norm")
    a, s, n, m = values_of(model, {"x": x}, "a", "s", "n", "m")
    weights = 1 / (np.square(s).mean(-1) + 0.25)
    np.testing.assert_allclose(found["o"], weighted(a, weights), rtol=1e-4, atol=1e-5)
    even = np.ones(x.shape[:2])
    for output, rows in {"q": x, "m": n, "y": m}.items():
        np.testing.assert_allclose(found[output], weighted(rows, even), rtol=1e-4, atol=1e-5)


def test_the_first_half_alone() -> None:
    x = f(2, 7, K)
    found = grams(block(), [{"x": x}], "first")
    expected = weighted(x[:, :4], np.ones((2, 4)))
    np.testing.assert_allclose(found["q"], expected, rtol=1e-4, atol=1e-5)


def test_weights_of_a_site_are_those_before_it_is_changed() -> None:
    """And what lies behind it has the same."""
    model, x = block(), f(1, 6, K)
    sites = sites_of(model)
    seen = {}
    for step in walk(model, sites, [{"x": x}], token_weights(model, sites, "attention")):
        for site in step.sites:
            seen[str(site.node.outputs[0].name)] = step.gram(site)
            if site.source.name == "wq":
                site.source.const_value = ir.tensor(W["wq"] * np.float32(0.1), name="wq")
    (a,) = values_of(model, {"x": x}, "a")
    np.testing.assert_allclose(seen["o"], weighted(a, received(x)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["decoder", "vit"])
def test_attention_by_any_name(name: str) -> None:
    """Fused with its rotary embedding and cache, or packed, it gives the same weights."""
    plain, fused = TINY[name](0), TINY[name](0)
    for model in (plain, fused):
        apply(Canonicalize(), model)
        apply(MergeSiblings(), model)
    apply(FuseAttention(), fused)
    assert any(node.op_type == "FusedAttention" for node in fused.graph)
    samples = [sample_feeds(name, 0)]
    if name == "decoder":  # a fused one takes no padding before a text
        samples[0]["attention_mask"][:] = 1
        samples[0]["position_ids"][:] = np.arange(12)
    one, two = (grams(model, samples, "attention") for model in (plain, fused))
    even = grams(plain, samples, "even")
    shared = [name for name in one if name in two]
    assert shared
    moved = [not np.allclose(one[name], even[name], rtol=1e-2) for name in shared]
    assert sum(moved) > len(moved) // 2
    for each in shared:
        np.testing.assert_allclose(two[each], one[each], rtol=2e-3, atol=1e-4)


def test_other_tokens_than_those_that_are_looked_at_count_alike() -> None:
    model = parse(
        f"""g (float[b, t, {K}] x, float[b, s, {K}] z) => (float[b, t, {K}] y) {{
            q = MatMul(x, wq)
            k = MatMul(z, wk)
            v = MatMul(z, wv)
            a = Attention <q_num_heads = {HEADS}, kv_num_heads = {HEADS}> (q, k, v)
            y = MatMul(a, wo)
        }}""",
        **{name: W[name] for name in ("wq", "wk", "wv", "wo")},
    )
    assert not token_weights(model, sites_of(model), "attention")


def test_gptq_lowers_the_error_behind_the_norm() -> None:
    """Tokens of large norm, as of sinks, rule the plain Gram matrix, and are divided by it."""
    weight, direction = f(48, 48), f(1, 48)
    x, a = f(8, 32, 48), f(8, 32, 48)
    x[:, 0] *= 1000
    a[:, 0] += 10 * direction
    lost = {}
    for tokens in ("even", "inverse-norm"):
        model = parse(
            """g (float[b, t, 96] both) => (float[b, t, 48] n) {
                a, x = Split <axis = 2, num_outputs = 2> (both)
                o = MatMul(a, w)
                s = Add(x, o)
                n = RMSNormalization (s, gain)
            }""",
            w=weight,
            gain=np.ones(48, np.float32),
        )
        feeds = {"both": np.concatenate([a, x], 2)}
        (exact,) = values_of(model, feeds, "n")
        item = Quantize(weights="int3", group=0, method="gptq", acts="none", tokens=tokens)
        entry = apply(item, model, [feeds])
        said = "tokens count by inverse-norm for 1 of 1 weight, alike for the others"
        assert (said in entry.notes) == (tokens != "even")
        (found,) = values_of(model, feeds, "n")
        lost[tokens] = float(np.square(found - exact).sum())
    assert lost["inverse-norm"] < 0.9 * lost["even"]
