"""Rotary embedding: every spelling of the rotation and of its tables, and what is declined."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.graphs import apply, assert_same, census, parse, run

from bitfold.passes.canonicalize.canonicalize import Canonicalize

B, H, S, D = 2, 3, 5, 8
HALF = D // 2

HEADER = """g (float[b, HEADS_FIRST, 8] x, float[b, s, 4] angles, int64[b, s] ids)
    => (float[b, HEADS_FIRST, 8] y) {
    zero = Constant<value_ints = [0]>()
    one = Constant<value_ints = [1]>()
    two = Constant<value_ints = [2]>()
    last = Constant<value_ints = [-1]>()
    half = Constant<value_ints = [4]>()
    end = Constant<value_ints = [9223372036854775807]>()
    heads = Constant<value_ints = [HEADS_AXIS]>()
    pairs = Constant<value_ints = [1, 1, 1, 2]>()
    joined = Constant<value_ints = [0, 0, 0, 8]>()
    flat = Constant<value_ints = [0, 0, 8]>()
"""

# cos and sin [batch, sequence, 8 or 4], by how often each angle is in them.
TABLES = {
    "angles twice": """both = Concat<axis = -1>(angles, angles)
        cos = Cos(both)
        sin = Sin(both)""",
    "cosines twice": """c = Cos(angles)
        s = Sin(angles)
        cos = Concat<axis = 2>(c, c)
        sin = Concat<axis = -1>(s, s)""",
    "gathered": """cos = Gather<axis = 0>(cos_table, ids)
        sin = Gather<axis = 0>(sin_table, ids)""",
    "repeated": """c = Cos(angles)
        s = Sin(angles)
        cu = Unsqueeze(c, last)
        su = Unsqueeze(s, last)
        cc = Concat<axis = -1>(cu, cu)
        se = Expand(su, pairs)
        cos = Reshape(cc, flat)
        sin = Reshape(se, flat)""",
    "gathered neighbours": """cos = Gather<axis = 0>(cos_pairs, ids)
        sin = Gather<axis = 0>(sin_pairs, ids)""",
    "single": """cos = Cos(angles)
        sin = Sin(angles)""",
    "unequal": """twice = Mul(angles, angles)
        both = Concat<axis = -1>(angles, twice)
        cos = Cos(both)
        sin = Sin(both)""",
}
HALVES = {
    "slices": "x1 = Slice(x, zero, half, last, one)\nx2 = Slice(x, half, end, last)",
    "split": "x1, x2 = Split<axis = -1, num_outputs = 2>(x)",
    "even": "x1 = Slice(x, zero, end, last, two)\nx2 = Slice(x, one, end, last, two)",
}
STACK = """{a}_u = Unsqueeze({a}, last)
    {b}_u = Unsqueeze({b}, last)
    pair = Concat<axis = -1>({a}_u, {b}_u)
    {out} = Reshape(pair, joined)"""
TURNED = """minus = Neg(x2)
    {join}
    straight = Mul({straight})
    crossed = Mul({crossed})
    y = Add({sum})"""
DIRECT = """a = Mul({first})
    c = Mul(x2, sn)
    one_half = Sub(a, c)
    d = Mul(x2, cs)
    e = Mul(sn, x1)
    other = Add({sum})
    {join}"""


def rope(cut, tables, turned, orders, heads_first=True):
    """The text of a graph that rotates x."""
    neighbours = cut == "even"

    def join(a, b, out):
        if neighbours:
            return STACK.format(a=a, b=b, out=out)
        return f"{out} = Concat<axis = -1>({a}, {b})"

    swap = [(lambda a, b: f"{b}, {a}") if order else (lambda a, b: f"{a}, {b}") for order in orders]
    if turned:
        body = TURNED.format(
            join=join("minus", "x1", "turned"),
            straight=swap[0]("x", "cs"),
            crossed=swap[1]("turned", "sn"),
            sum=swap[2]("straight", "crossed"),
        )
    else:
        body = DIRECT.format(
            first=swap[0]("x1", "cs"), sum=swap[2]("d", "e"), join=join("one_half", "other", "y")
        )
    header = HEADER.replace("HEADS_FIRST", "3, s" if heads_first else "s, 3")
    header = header.replace("HEADS_AXIS", "1" if heads_first else "2")
    broadcast = "cs = Unsqueeze(cos, heads)\nsn = Unsqueeze(sin, heads)"
    return "\n".join([header, TABLES[tables], broadcast, HALVES[cut], body, "}"])


def constants(tables):
    angles = np.random.default_rng(0).standard_normal((7, HALF)).astype(np.float32)
    if tables == "gathered":
        both = np.concatenate([angles, angles], -1)
        return {"cos_table": np.cos(both), "sin_table": np.sin(both)}
    if tables == "gathered neighbours":
        both = np.repeat(angles, 2, -1)
        return {"cos_pairs": np.cos(both), "sin_pairs": np.sin(both)}
    return {}


def feeds(heads_first=True):
    rng = np.random.default_rng(1)
    shape = (B, H, S, D) if heads_first else (B, S, H, D)
    return {
        "x": rng.standard_normal(shape).astype(np.float32),
        "angles": rng.standard_normal((B, S, HALF)).astype(np.float32),
        "ids": rng.integers(0, 7, (B, S)),
    }


FORMS = [
    *((cut, t, True) for cut in ("slices", "split") for t in ("angles twice", "cosines twice")),
    *((cut, "gathered", True) for cut in ("slices", "split")),
    *(("even", t, True) for t in ("repeated", "gathered neighbours")),
    *((cut, "single", False) for cut in HALVES),
]


@given(st.sampled_from(FORMS), st.tuples(*[st.booleans()] * 3), st.booleans())
@settings(max_examples=60)
def test_every_spelling_is_raised(form, orders, heads_first):
    cut, tables, turned = form
    model = parse(rope(cut, tables, turned, orders, heads_first), **constants(tables))
    inputs = feeds(heads_first)
    before = run(model, inputs)
    apply(Canonicalize(), model)
    found = census(model)
    assert found["RotaryEmbedding"] == 1
    assert not {"Neg", "Slice", "Split", "Sub"} & set(found)
    node = next(node for node in model.graph if node.op_type == "RotaryEmbedding")
    assert node.attributes.get_int("interleaved", 0) == (cut == "even")
    assert_same(before, run(model, inputs))


@pytest.mark.parametrize(
    ("cut", "tables", "turned", "reason"),
    [
        ("slices", "unequal", True, "not known to be the same for both members"),
        ("even", "angles twice", True, "not known to be the same for both members"),
        ("slices", "repeated", True, "not known to be the same for both members"),
    ],
)
def test_other_tables_are_declined(cut, tables, turned, reason):
    model = parse(rope(cut, tables, turned, (False, False, False)))
    inputs = feeds()
    before = run(model, inputs)
    entry = apply(Canonicalize(), model)
    assert "RotaryEmbedding" not in census(model)
    assert reason in entry.skips[0].text
    assert_same(before, run(model, inputs))


def test_one_row_of_angles_for_all_is_spread_over_the_batch():
    text = rope("slices", "single", False, (False, False, False))
    text = text.replace("float[b, s, 4] angles", "float[1, s, 4] angles")
    model = parse(text)
    inputs = feeds()
    inputs["angles"] = inputs["angles"][:1]
    before = run(model, inputs)
    apply(Canonicalize(), model)
    assert census(model)["RotaryEmbedding"] == 1
    assert_same(before, run(model, inputs))


@pytest.mark.parametrize(("start", "end", "raised"), [(0, 6, True), (2, 8, False)])
def test_a_part_of_the_head(start, end, raised):
    text = """g (float[b, 3, s, 8] x, float[b, s, 3] cos, float[b, s, 3] sin)
        => (float[b, 3, s, 8] y) {
        axis = Constant<value_ints = [3]>()
        from = Constant<value_ints = [START]>()
        to = Constant<value_ints = [END]>()
        zero = Constant<value_ints = [0]>()
        eight = Constant<value_ints = [8]>()
        part = Slice(x, from, to, axis)
        before = Slice(x, zero, from, axis)
        after = Slice(x, to, eight, axis)
        turned = RotaryEmbedding(part, cos, sin)
        y = Concat<axis = -1>(ORDER)
    }""".replace("START", str(start)).replace("END", str(end))
    model = parse(text.replace("ORDER", "turned, after" if start == 0 else "before, turned"))
    rng = np.random.default_rng(0)
    inputs = {
        "x": rng.standard_normal((B, 3, S, 8)).astype(np.float32),
        "cos": rng.standard_normal((B, S, 3)).astype(np.float32),
        "sin": rng.standard_normal((B, S, 3)).astype(np.float32),
    }
    before = run(model, inputs)
    apply(Canonicalize(), model)
    assert ("Concat" not in census(model)) == raised
    assert_same(before, run(model, inputs))
