"""ORT's MultiHeadAttention for long attention without a mask; else the standard op."""

import numpy as np
import pytest
from support.graphs import apply, assert_same, census, parse, run

from bitfold.passes.lower.fuse_attention import FuseAttention

HEADS = """
    qr = Reshape(q, cut)
    qh = Transpose <perm = [0, 2, 1, 3]> (qr)
    kr = Reshape(k, kv_cut)
    kh = Transpose <perm = [0, 2, 1, 3]> (kr)
    vr = Reshape(v, kv_cut)
    vh = Transpose <perm = [0, 2, 1, 3]> (vr)
"""


def attention(keys="600", attributes="", mask="", kv_heads=2):
    """Two heads of 8 over q [b, s, 16] and k, v [b, keys, 8 * kv_heads]."""
    inputs = f"float[b, s, 16] q, float[b, {keys}, {8 * kv_heads}] k"
    inputs += f", float[b, {keys}, {8 * kv_heads}] v" + (", float[s, 600] mask" if mask else "")
    return parse(
        f"""g ({inputs}) => (float[b, s, 16] y)
        <int64[4] cut = {{0, 0, 2, 8}}, int64[4] kv_cut = {{0, 0, {kv_heads}, 8}},
         int64[3] flat = {{0, 0, 16}}> {{
            {HEADS}
            mixed = Attention {attributes} (qh, kh, vh{mask})
            turned = Transpose <perm = [0, 2, 1, 3]> (mixed)
            y = Reshape(turned, flat)
        }}"""
    )


def feeds(keys=600, kv_heads=2, queries=5):
    rng = np.random.default_rng(0)
    shapes = {"q": (2, queries, 16), "k": (2, keys, 8 * kv_heads), "v": (2, keys, 8 * kv_heads)}
    return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("attributes", ["", "<scale = 0.7>"])
@pytest.mark.parametrize("queries", [1, 600])
def test_many_keys(attributes, queries):
    model = attention(attributes=attributes)
    inputs = feeds(queries=queries)
    before = run(model, inputs)
    entry = apply(FuseAttention(target="ort"), model)
    assert dict(census(model)) == {"MultiHeadAttention": 1}
    assert "never holds all scores" in entry.changes[0].text
    assert_same(before, run(model, inputs))


@pytest.mark.parametrize(
    "options",
    [
        {"keys": "511"},
        {"keys": "t"},
        {"attributes": "<is_causal = 1>"},
        {"attributes": "<softcap = 2.0>"},
        {"mask": ", mask"},
        {"kv_heads": 1},
    ],
)
def test_other_attention_stays_standard(options):
    model = attention(**options)
    apply(FuseAttention(target="ort"), model)
    assert dict(census(model)) == {"Attention": 1}


def test_portable_stays_standard():
    model = attention()
    apply(FuseAttention(target="portable"), model)
    assert dict(census(model)) == {"Attention": 1}
