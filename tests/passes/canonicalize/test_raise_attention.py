"""Attention: spellings, masks of every shape, guards against NaN, and what is declined."""

import numpy as np
import pytest
from support.graphs import apply, assert_same, census, parse, run

from bitfold.passes.canonicalize.canonicalize import Canonicalize

RNG = np.random.default_rng(1)
B, H, KV, S, T, D = 2, 4, 2, 5, 7, 8
LOWEST = float(np.finfo(np.float32).min)


def attention(mask="[b, 1, s, t]", middle="", kv=H, k_perm="0, 1, 3, 2", mask_in=True):
    """A graph of decomposed attention over q, k, v; ``middle`` replaces the scaled scores."""
    keys = f"[b, {kv}, t, {D}]" if k_perm == "0, 1, 3, 2" else f"[b, t, {kv}, {D}]"
    mask_input = f", float{mask} mask" if mask_in else ""
    repeat = ""
    wide_k, wide_v = "k", "v"
    if kv != H:
        wide_k, wide_v = "k4", "v4"
        repeat = "two = Constant<value_ints = [2]>()\n" + "".join(
            f"{x}2 = Unsqueeze({x}, two)\n{x}3 = Expand({x}2, wide)\n{x}4 = Reshape({x}3, flat)\n"
            for x in "kv"
        )
    middle = middle or "scores = Mul(product, scale)\nmasked = Add(scores, mask)"
    return f"""g (float[b, {H}, s, {D}] q, float{keys} k, float[b, {kv}, t, {D}] v{mask_input})
        => (float[b, {H}, s, {D}] y) {{
        scale = Constant<value_float = 0.3>()
        {repeat}
        turned = Transpose<perm = [{k_perm}]>({wide_k})
        product = MatMul(q, turned)
        {middle}
        p = Softmax<axis = -1>(masked)
        y = MatMul(p, {wide_v})
    }}"""


def inputs(kv=H, mask=(B, 1, S, T), k_swapped=False):
    f = RNG.standard_normal
    k = f((B, T, kv, D) if k_swapped else (B, kv, T, D))
    feeds = {"q": f((B, H, S, D)), "k": k, "v": f((B, kv, T, D)), "mask": f(mask)}
    return {name: array.astype(np.float32) for name, array in feeds.items()}


def check(text, feeds, **constants):
    model = parse(text, **constants)
    before = run(model, feeds)
    entry = apply(Canonicalize(), model)
    assert_same(before, run(model, feeds))
    return model, entry


@pytest.mark.parametrize(
    "middle",
    [
        "scores = Mul(scale, product)\nmasked = Add(mask, scores)",
        "scores = Div(product, scale)\nmasked = Add(scores, mask)",
        "masked = Add(product, mask)",
    ],
)
@pytest.mark.parametrize("swapped", [False, True])
def test_spellings(middle, swapped):
    perm = "0, 2, 3, 1" if swapped else "0, 1, 3, 2"
    model, _ = check(attention(middle=middle, k_perm=perm), inputs(k_swapped=swapped))
    assert census(model)["Attention"] == 1
    assert not {"Softmax", "MatMul"} & set(census(model))


@pytest.mark.parametrize("order", ["root, q", "q, root"])
def test_query_and_key_may_each_be_scaled(order):
    text = attention(middle="masked = Add(product, mask)").replace(
        "product = MatMul(q, turned)",
        f"root = Constant<value_float = 0.5>()\nsq = Mul({order})\n"
        "sk = Mul(turned, root)\nproduct = MatMul(sq, sk)",
    )
    model, _ = check(text, inputs())
    node = next(node for node in model.graph if node.op_type == "Attention")
    assert node.attributes.get_float("scale", 0) == 0.25


def test_no_mask():
    text = attention(middle="masked = Mul(product, scale)", mask_in=False)
    model, _ = check(text, inputs())
    assert census(model) == {"Attention": 1}
    assert model.graph[0].attributes.get_float("scale", 0) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("declared", "shape"),
    [
        ("[b, 1, s, t]", (B, 1, S, T)),
        ("[b, 1, 1, t]", (B, 1, 1, T)),
        ("[1, 1, s, t]", (1, 1, S, T)),
        ("[b, 4, s, t]", (B, H, S, T)),
        ("[s, t]", (S, T)),
        ("[b, 1, anything, t]", (B, 1, 1, T)),
    ],
)
def test_masks_of_every_shape(declared, shape):
    model, _ = check(attention(mask=declared), inputs(mask=shape))
    assert census(model)["Attention"] == 1


@pytest.mark.parametrize("value", [LOWEST, -3e38, -1e9])
def test_rows_that_are_masked_whole_stay_uniform(value):
    feeds = inputs()
    feeds["mask"] = np.zeros((B, 1, S, T), np.float32)
    feeds["mask"][:, :, 2] = value
    model, _ = check(attention(), feeds)
    expected = feeds["v"].mean(axis=2)
    np.testing.assert_allclose(run(model, feeds)["y"][:, :, 2], expected, atol=1e-5)


@pytest.mark.parametrize("value", [-np.inf, LOWEST])
def test_the_guard_against_nan_is_kept(value):
    text = attention().replace(
        "y = MatMul(p, v)",
        "zero = Constant<value_float = 0.0>()\nn = IsNaN(p)\n"
        "w = Where(n, zero, p)\ny = MatMul(w, v)",
    )
    feeds = inputs()
    feeds["mask"] = np.zeros((B, 1, S, T), np.float32)
    feeds["mask"][:, :, 1] = value
    model, _ = check(text, feeds)
    assert census(model)["Attention"] == 1


def test_repeated_heads_become_head_sharing():
    shapes = {"wide": np.array([B, KV, H // KV, T, D]), "flat": np.array([B, H, T, D])}
    model, _ = check(attention(kv=KV), inputs(kv=KV), **shapes)
    assert {"Expand", "Unsqueeze"}.isdisjoint(node.op_type for node in model.graph)
    assert census(model)["Attention"] == 1


def test_tiled_heads_stay_tiled():
    # Unsqueeze before the heads repeats 0 1 0 1, which is not what the op shares.
    shapes = {"wide": np.array([B, H // KV, KV, T, D]), "flat": np.array([B, H, T, D])}
    text = attention(kv=KV).replace("value_ints = [2]", "value_ints = [1]")
    model, _ = check(text, inputs(kv=KV), **shapes)
    assert census(model)["Expand"] == 3  # q too: its batch may be 1 beside the fixed one
    assert census(model)["Attention"] == 1


WHERE = """hidden = Constant<value_float = NUMBER>()
        zero = Constant<value_float = 0.0>()
        seen = Greater(mask, zero)
        scores = Mul(product, scale)
        masked = Where(seen, INPUTS)"""


@pytest.mark.parametrize("number", [LOWEST, -1e30, -np.inf])
@pytest.mark.parametrize("order", ["scores, hidden", "hidden, scores"])
@pytest.mark.parametrize("declared", ["[b, 1, s, t]", "[s, t]", "[b, 1, 1, t]"])
def test_a_mask_that_chooses_scores(number, order, declared):
    middle = WHERE.replace("INPUTS", order)
    if np.isinf(number):
        middle = middle.replace("hidden = Constant<value_float = NUMBER>()\n", "")
    shape = {"[b, 1, s, t]": (B, 1, S, T), "[s, t]": (S, T), "[b, 1, 1, t]": (B, 1, 1, T)}
    feeds = inputs(mask=shape[declared])
    feeds["mask"][..., 0] = 1 if order.startswith("scores") else -1  # no row is hidden whole
    text = attention(mask=declared, middle=middle.replace("NUMBER", repr(number)))
    constants = {"hidden": np.float32(number)} if np.isinf(number) else {}
    model, _ = check(text, feeds, **constants)
    assert census(model)["Attention"] == 1
    assert "Softmax" not in census(model)


def test_a_mask_may_choose_and_another_be_added():
    middle = WHERE.replace("INPUTS", "scores, hidden").replace("NUMBER", repr(LOWEST))
    middle = middle.replace("masked =", "chosen =") + "\nmasked = Add(chosen, mask)"
    feeds = inputs()
    feeds["mask"][..., :3] = LOWEST  # both hide: their sum is beyond float32
    feeds["mask"][..., 3] = 1
    model, _ = check(attention(middle=middle), feeds)
    assert census(model)["Attention"] == 1


def test_a_small_number_in_the_place_of_scores_is_no_mask():
    middle = WHERE.replace("INPUTS", "scores, hidden").replace("NUMBER", "-10.0")
    model, entry = check(attention(middle=middle), inputs())
    assert "Attention" not in census(model)
    assert any("not a large negative constant" in skip.text for skip in entry.skips)


def test_softmax_over_keys_of_another_axis_is_declined():
    model, entry = check(attention().replace("axis = -1", "axis = 2"), inputs())
    assert "Attention" not in census(model)
    assert "not over the last axis" in entry.skips[0].text


def test_a_cache_is_absorbed():
    text = f"""g (float[b, {KV}, s, {D}] q, float[b, {KV}, s, {D}] k, float[b, {KV}, s, {D}] v,
        float[b, {KV}, p, {D}] past_k, float[b, {KV}, p, {D}] past_v, float[b, 1, s, t] mask)
        => (float[b, {KV}, s, {D}] y, float[b, {KV}, t, {D}] new_k, float[b, {KV}, t, {D}] new_v) {{
        new_k = Concat<axis = 2>(past_k, k)
        new_v = Concat<axis = -2>(past_v, v)
        turned = Transpose<perm = [0, 1, 3, 2]>(new_k)
        product = MatMul(q, turned)
        masked = Add(product, mask)
        p0 = Softmax<axis = -1>(masked)
        y = MatMul(p0, new_v)
    }}"""
    for past in (0, 3):
        f = RNG.standard_normal
        feeds = {name: f((B, KV, S, D)).astype(np.float32) for name in "qkv"}
        feeds |= {name: f((B, KV, past, D)).astype("f4") for name in ("past_k", "past_v")}
        feeds["mask"] = f((B, 1, S, S + past)).astype(np.float32)
        model, entry = check(text, feeds)
        assert "Concat" not in [n.op_type for n in model.graph if n.name and "new" in n.name]
        node = next(node for node in model.graph if node.op_type == "Attention")
        assert [value.name for value in node.outputs] == ["y", "new_k", "new_v"]
        assert any("cache absorbed" in change.text for change in entry.changes)


def test_a_cache_of_other_tokens_is_left_outside():
    # All of an encoder's keys may lie in the cache; Attention takes no empty ones beside it.
    projected = "\n".join(
        f"flat_{n} = MatMul({x}, w_{n})\n"
        f"cut_{n} = Reshape(flat_{n}, split)\n"
        f"{n} = Transpose<perm = [0, 2, 1, 3]>(cut_{n})"
        for n, x in (("q", "x"), ("k", "states"), ("v", "states"))
    )
    weights = {f"w_{n}": RNG.standard_normal((8, KV * D)).astype(np.float32) for n in "qkv"}
    text = f"""g (float[b, s, 8] x, float[b, f, 8] states,
        float[b, {KV}, p, {D}] past_k, float[b, {KV}, p, {D}] past_v)
        => (float[b, {KV}, s, {D}] y, float[b, {KV}, t, {D}] new_k, float[b, {KV}, t, {D}] new_v) {{
        {projected}
        new_k = Concat<axis = 2>(past_k, k)
        new_v = Concat<axis = 2>(past_v, v)
        turned = Transpose<perm = [0, 1, 3, 2]>(new_k)
        product = MatMul(q, turned)
        p0 = Softmax<axis = -1>(product)
        y = MatMul(p0, new_v)
    }}"""
    f = RNG.standard_normal
    for new, past in ((S, 0), (0, S)):
        feeds = {"x": f((B, 2, 8)), "states": f((B, new, 8))}
        feeds |= {name: f((B, KV, past, D)) for name in ("past_k", "past_v")}
        feeds = {name: array.astype(np.float32) for name, array in feeds.items()}
        model, entry = check(text, feeds, split=np.array([0, -1, KV, D]), **weights)
        assert census(model)["Attention"] == 1
        assert any("tokens that ask" in skip.text for skip in entry.skips)


def broadcast(q, k, v="", mask=""):
    """Attention over inputs of the given shapes."""
    given = f", float[{mask}] mask" if mask else ""
    masked = "masked = Add(product, mask)" if mask else "masked = Identity(product)"
    inputs = f"float[{q}] q, float[{k}] k, float[{v or k}] v{given}"
    return f"""g ({inputs}) => (float[x, y, z, w] out) {{
        turned = Transpose<perm = [0, 1, 3, 2]>(k)
        product = MatMul(q, turned)
        {masked}
        p = Softmax<axis = -1>(masked)
        out = MatMul(p, v)
    }}"""


def feeds_of(**shapes):
    return {name: RNG.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("q", "k", "v", "expands"),
    [
        ("1, 2, 6, 4", "b, 2, 5, 4", "", 1),
        ("b, 2, 6, 4", "b, 2, 5, 4", "1, 2, 5, 4", 1),
        ("b, 2, 6, 4", "1, 2, 5, 4", "", 2),
        ("1, 2, 6, 4", "3, 2, 5, 4", "", 1),
        ("b, 2, 6, 4", "3, 2, 5, 4", "", 1),
        ("b, 2, 6, 4", "b, 2, 5, 4", "", 0),
    ],
)
@pytest.mark.parametrize("batch", [1, 3])
def test_batches_of_one_are_expanded(q, k, v, expands, batch):
    def shape(text):
        return tuple(batch if each == "b" else int(each) for each in text.split(", "))

    feeds = feeds_of(q=shape(q), k=shape(k), v=shape(v or k))
    model, _ = check(broadcast(q, k, v), feeds)
    assert census(model)["Attention"] == 1
    assert census(model)["Expand"] == expands


@pytest.mark.parametrize("batch", [1, 3])
def test_batches_of_other_names_are_declined(batch):
    text = broadcast("images, 2, 6, 4", "texts, 2, 5, 4")
    model, entry = check(text, feeds_of(q=(batch, 2, 6, 4), k=(3, 2, 5, 4), v=(3, 2, 5, 4)))
    assert "Attention" not in census(model)
    assert any("one batch" in skip.text for skip in entry.skips)


@pytest.mark.parametrize(
    ("declared", "shape"),
    [
        ("b, 1, 1, 1", (2, 1, 1, 1)),
        ("6, 1", (6, 1)),
        ("1, 6, 1", (1, 6, 1)),
        ("b, 1, s, 1", (2, 1, 6, 1)),
    ],
)
def test_a_mask_of_one_key_is_expanded(declared, shape):
    text = broadcast("b, 3, s, 4", "b, 3, t, 4", mask=declared)
    feeds = feeds_of(q=(2, 3, 6, 4), k=(2, 3, 5, 4), v=(2, 3, 5, 4), mask=shape)
    model, _ = check(text, feeds)
    assert census(model)["Attention"] == 1


@pytest.mark.parametrize(
    ("q", "declared", "shape"),
    [
        ("1, 3, 6, 4", "b, 1, 6, 5", (2, 1, 6, 5)),
        ("1, 1, 6, 4", "1, 3, 6, 5", (1, 3, 6, 5)),
        ("1, 3, 1, 4", "1, 1, r, 5", (1, 1, 7, 5)),
    ],
)
def test_a_mask_that_makes_more_scores_is_declined(q, declared, shape):
    sizes = tuple(int(each) for each in q.split(", "))
    k = (1, sizes[1], 5, 4)
    text = broadcast(q, ", ".join(map(str, k)), mask=declared)
    model, entry = check(text, feeds_of(q=sizes, k=k, v=k, mask=shape))
    assert "Attention" not in census(model)
    assert any("other batches, heads or queries" in skip.text for skip in entry.skips)


def test_softmax_of_a_matrix():
    """As graphs of opset 12 and earlier are converted, where they do not tell ranks."""
    middle = (
        "scores = Mul(product, scale)\nadded = Add(scores, mask)\nmasked = Flatten<axis = 3>(added)"
    )
    text = attention(middle=middle).replace(
        "p = Softmax<axis = -1>(masked)",
        "rows = Softmax<axis = -1>(masked)\nshape = Shape(added)\np = Reshape(rows, shape)",
    )
    model, _ = check(text, inputs())
    assert census(model)["Attention"] == 1
    assert not {"Softmax", "Flatten", "Reshape"} & set(census(model))
