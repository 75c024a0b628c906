"""Attention without a cache of its own becomes FusedAttention where that means the same."""

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
END = """
    turned = Transpose <perm = [0, 2, 1, 3]> (mixed)
    y = Reshape(turned, flat)
"""


def attention(attributes="", mask="", before="", kv_heads=2, keys="t"):
    """Two heads of 8 over q [b, s, 16] and k, v [b, keys, 8 * kv_heads]."""
    inputs = f"float[b, s, 16] q, float[b, {keys}, {8 * kv_heads}] k"
    inputs += f", float[b, {keys}, {8 * kv_heads}] v" + (f", {mask} mask" if mask else "")
    last = "wide" if before else "mask" if mask else ""
    return parse(
        f"""g ({inputs}) => (float[b, s, 16] y)
        <int64[4] cut = {{0, 0, 2, 8}}, int64[4] kv_cut = {{0, 0, {kv_heads}, 8}},
         int64[4] broad = {{2, 1, 5, 7}}, int64[3] flat = {{0, 0, 16}}> {{
            {HEADS} {before}
            mixed = Attention {attributes} (qh, kh, vh{", " + last if last else ""})
            {END}
        }}"""
    )


def feeds(keys=7, kv_heads=2, queries=5, mask=None):
    rng = np.random.default_rng(0)
    shapes = {"q": (2, queries, 16), "k": (2, keys, 8 * kv_heads), "v": (2, keys, 8 * kv_heads)}
    given = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    if mask is not None:
        given["mask"] = np.where(rng.random(mask) < 0.3, -1e9, 0).astype(np.float32)
    return given


def agree(model, inputs):
    before = run(model, inputs)
    entry = apply(FuseAttention(), model)
    assert_same(before, run(model, inputs))
    return entry


@pytest.mark.parametrize("attributes", ["", "<scale = 0.7>"])
@pytest.mark.parametrize("kv_heads", [1, 2])
@pytest.mark.parametrize("queries", [1, 5])
def test_projections_are_read_directly(attributes, kv_heads, queries):
    model = attention(attributes, kv_heads=kv_heads)
    entry = agree(model, feeds(queries=queries, kv_heads=kv_heads))
    assert dict(census(model)) == {"FusedAttention": 1}
    assert "never holds all scores" in entry.changes[0].text


@pytest.mark.parametrize("shape", [(5, 7), (2, 1, 5, 7), (2, 2, 5, 7), (1, 1, 5, 7)])
def test_masks(shape):
    model = attention(mask=f"float{list(shape)}")
    agree(model, feeds(mask=shape))
    assert dict(census(model)) == {"FusedAttention": 1}


def test_a_mask_is_read_before_it_is_broadcast():
    model = attention(mask="float[2, 1, 1, 7]", before="wide = Expand(mask, broad)")
    agree(model, feeds(mask=(2, 1, 1, 7)))
    assert dict(census(model)) == {"FusedAttention": 1}
    node = next(node for node in model.graph if node.op_type == "FusedAttention")
    assert node.inputs[9].name == "mask"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"attributes": "<softcap = 2.0>"}, "bounded"),
        ({"attributes": "<is_causal = 1>"}, "may differ in number"),
        ({"mask": "bool[5, 7]"}, "float32"),
    ],
)
def test_what_stays_standard(options, reason):
    model = attention(**options)
    entry = apply(FuseAttention(), model)
    assert dict(census(model)) == {"Attention": 1}
    assert reason in entry.changes[0].text


def test_causal_self_attention():
    model = attention("<is_causal = 1>", keys="s")
    for value in model.graph.inputs[1:]:
        for user, index in list(value.uses()):
            user.replace_input_with(index, model.graph.inputs[0])
    del model.graph.inputs[1:]
    agree(model, {"q": feeds()["q"]})
    assert dict(census(model)) == {"FusedAttention": 1}


@pytest.mark.parametrize("kv_heads", [1, 2])
@pytest.mark.parametrize("mask", [None, (5, 7)])
def test_kept_keys_and_values_are_read_as_they_are(kv_heads, mask):
    """As in a decoder that attends to its encoder."""
    extra = ", float[5, 7] mask" if mask else ""
    model = parse(
        f"""g (float[b, s, 16] q, float[b, {kv_heads}, t, 8] k, float[b, {kv_heads}, t, 8] v{extra})
        => (float[b, s, 16] y) <int64[4] cut = {{0, 0, 2, 8}}, int64[3] flat = {{0, 0, 16}}> {{
            qr = Reshape(q, cut)
            qh = Transpose <perm = [0, 2, 1, 3]> (qr)
            mixed = Attention(qh, k, v{", mask" if mask else ""})
            {END}
        }}"""
    )
    inputs = feeds(mask=mask)
    for name in ("k", "v"):
        split = inputs[name].reshape(2, 7, 2, 8).transpose(0, 2, 1, 3)
        inputs[name] = np.ascontiguousarray(split[:, :kv_heads])
    agree(model, inputs)
    assert dict(census(model)) == {"FusedAttention": 1}
