"""LayerNorms become RMSNorms where what they read can be centered; refusals say why."""

import numpy as np
import pytest
from support.graphs import apply, assert_same, census, parse, run

from bitfold.models import tiny
from bitfold.passes.core.context import Context
from bitfold.passes.core.pipeline import Pipeline
from bitfold.passes.core.recipe import Recipe
from bitfold.passes.transform.ln_to_rms import LnToRms
from bitfold.runtime.execution import open_session

RNG = np.random.default_rng(0)
IDS = {"ids": np.arange(10).reshape(2, 5)}


def f(*shape):
    return (RNG.standard_normal(shape) + 0.5).astype(np.float32)


def array(model, name):
    return model.graph.initializers[name].const_value.numpy().copy()


def check(model, feeds, norms, status="applied", **options):
    """Apply the pass; ``norms`` LayerNorms must be RMSNorms after it, and the outputs the same."""
    before = run(model, feeds)
    total = census(model)["LayerNormalization"]
    entry = apply(LnToRms(**options), model)
    assert entry.status == status
    assert_same(before, run(model, feeds))
    assert census(model)["LayerNormalization"] == total - norms
    return entry


def stream(tail="y = MatMul(o, head)", writer="e = Gather(table, ids)", head=(48, 20), **constants):
    """A residual stream with two norms, which ``tail`` ends."""
    own = {"up": f(48, 64), "down": f(64, 48), "fc": f(48), "fd": f(48), "beta": f(48)}
    own |= {"table": f(20, 48), "positions": f(5, 48)}
    if "head" in tail:
        own["head"] = f(*head)
    return parse(
        f"""g (int64[b, 5] ids) => (float[b, 5, {head[1]}] y) {{
            {writer}
            p = Add(e, positions)
            n = LayerNormalization<axis = -1, epsilon = 0.01>(p, fc, beta)
            a = MatMul(n, up)
            r = Gelu(a)
            d = MatMul(r, down)
            h = Add(p, d)
            o = LayerNormalization<axis = -1>(h, fd)
            {tail}
        }}""",
        **own,
        **constants,
    )


def test_residual_stream():
    model = stream()
    bias, gain = array(model, "beta"), array(model, "fc")
    entry = check(model, IDS, 2)
    assert census(model)["RMSNormalization"] == 2
    assert census(model)["ReduceMean"] == 0
    for name, axis in (("table", 1), ("positions", 1), ("down", 1)):
        np.testing.assert_allclose(array(model, name).mean(axis), 0, atol=1e-6)
    np.testing.assert_array_equal(array(model, "beta"), bias)  # added behind the norm
    np.testing.assert_array_equal(array(model, "fc"), gain)
    texts = [change.text for change in entry.changes]
    assert texts == ["2 writers centered", "now an RMSNorm", "now an RMSNorm"]
    inner = open_session(model, outputs=["h"]).run(IDS)["h"]
    np.testing.assert_allclose(inner.mean(-1), 0, atol=1e-5)


def test_names_of_values_stay():
    model = stream()
    named = open_session(model, outputs=["n", "o"]).run(IDS)
    check(model, IDS, 2)
    assert_same(named, open_session(model, outputs=["n", "o"]).run(IDS))


def test_a_norm_that_gives_an_output():
    model = stream("y = Identity(o)", head=(48, 48))
    check(model, IDS, 2)
    model = parse(
        """g (float[b, 8] x) => (float[b, 16] y) {
            e = MatMul(x, w)
            y = LayerNormalization<axis = -1>(e, gain, bias)
        }""",
        w=f(8, 16),
        gain=f(16),
        bias=f(16),
    )
    check(model, {"x": f(3, 8)}, 1)


def test_the_table_of_a_tied_head_is_not_copied():
    tail = "turned = Transpose<perm = [1, 0]>(table)\ny = MatMul(o, turned)"
    model = stream(tail)
    table = array(model, "table")
    entry = check(model, IDS, 2, copy_limit=10)
    np.testing.assert_array_equal(array(model, "table"), table)
    assert census(model)["ReduceMean"] == 1
    assert entry.changes[0].text == "2 writers centered, 1 as the model runs"
    entry = check(stream(tail), IDS, 0, "unchanged", copy_limit=10, borders=0)
    assert "reads table too" in entry.skips[0].text
    model = stream(tail)
    check(model, IDS, 2, copy_limit=10**6)
    assert census(model)["ReduceMean"] == 0


GELU = """t = Gather(table, ids)
    u = Transpose<perm = [0, 2, 1]>(t)
    g = Gelu(u)
    e = Transpose<perm = [0, 2, 1]>(g)"""


def test_a_stream_that_begins_with_a_gelu():
    model = stream(writer=GELU)
    check(model, IDS, 2)
    assert census(model)["ReduceMean"] == 1
    entry = check(stream(writer=GELU), IDS, 0, "unchanged", borders=0)
    assert "Gelu  is not linear: 1 value to center as the model runs" in entry.skips[0].text


SILU = "v = Gather(table, ids)\nt = Sigmoid(v)\ne = Mul(v, t)"
PRODUCT = "v = Gather(table, ids)\nt = Gather(table2, ids)\ne = Mul(v, t)"
RELU = "v = Gather(table, ids)\ne = Relu(v)"


@pytest.mark.parametrize("writer", [SILU, PRODUCT, RELU])
def test_a_stream_that_begins_with(writer):
    """What is given by an operator that is not linear is centered behind it."""
    model = stream(writer=writer, **({"table2": f(20, 48)} if "table2" in writer else {}))
    table = array(model, "table")
    check(model, IDS, 2)
    assert census(model)["ReduceMean"] == 1
    np.testing.assert_array_equal(array(model, "table"), table)


def test_a_stream_that_begins_with_pixels():
    """Their channels come to the last axis in two steps, and are centered there."""
    model = parse(
        """g (float[b, 3, 1, w] x) => (float[b, w, 16] y) {
            c = Conv<kernel_shape = [1, 1]>(x, k)
            t = Sigmoid(c)
            p = Mul(c, t)
            dims = Shape(p)
            batch = Slice(dims, zero, one)
            shape = Concat<axis = 0>(batch, rest)
            r = Reshape(p, shape)
            e = Transpose<perm = [0, 2, 1]>(r)
            n = LayerNormalization<axis = -1>(e, g0)
            a = MatMul(n, up)
            u = Gelu(a)
            d = MatMul(u, down)
            h = Add(e, d)
            y = LayerNormalization<axis = -1>(h, g1)
        }""",
        k=f(16, 3, 1, 1),
        zero=np.array([0]),
        one=np.array([1]),
        rest=np.array([16, -1]),
        g0=f(16),
        g1=f(16),
        up=f(16, 24),
        down=f(24, 16),
    )
    check(model, {"x": f(2, 3, 1, 7)}, 2)
    assert census(model)["ReduceMean"] == 1


@pytest.mark.parametrize(
    ("tail", "reason"),
    [
        ("y = MatMul(h, head)", "MatMul  reads it"),
        ("y = Identity(h)", "output y"),
        ("q = RMSNormalization<axis = -1>(h, fd)\ny = MatMul(q, head)", "RMSNormalization"),
        ("q = Relu(h)\ny = MatMul(q, head)", "Relu"),
        ("m = ReduceMean<keepdims = 1>(h, last)\nq = Add(o, m)\ny = MatMul(q, head)", "ReduceMean"),
    ],
)
def test_other_readers_see_the_mean(tail, reason):
    constants = {"last": np.array([-1])} if "last" in tail else {}
    model = stream(tail, head=(48, 48), **constants)
    entry = check(model, IDS, 0, "unchanged")
    assert [reason in skip.text for skip in entry.skips] == [True, True]


@pytest.mark.parametrize("factor", ["one", "table2"])
def test_what_adds_a_mean_of_its_own(factor):
    constants = {"one": np.float32(3.0)} if factor == "one" else {"table2": f(1)}
    model = stream(writer=f"v = Gather(table, ids)\ne = Add(v, {factor})", **constants)
    check(model, IDS, 0, "unchanged")


def test_post_norm_stays():
    model = parse(
        """g (float[b, s, 8] x) => (float[b, s, 48] y) {
            e = MatMul(x, w)
            n = LayerNormalization<axis = -1>(e, g0, b0)
            a = MatMul(n, up)
            r = Gelu(a)
            d = MatMul(r, down)
            h = Add(n, d)
            y = LayerNormalization<axis = -1>(h, g1, b1)
        }""",
        w=f(8, 48),
        up=f(48, 64),
        down=f(64, 48),
        **{name: f(48) for name in ("g0", "b0", "g1", "b1")},
    )
    entry = check(model, {"x": f(2, 3, 8)}, 1)
    assert len(entry.skips) == 1
    assert "(post-norm)" in entry.skips[0].text


def test_channels_of_two_spaces():
    model = parse(
        """g (float[b, s, 8] x) => (float[b, s, 36] y) {
            e = MatMul(x, w)
            a = MatMul(x, v)
            c = Concat<axis = -1>(e, a)
            y = LayerNormalization<axis = -1>(c, gain)
        }""",
        w=f(8, 20),
        v=f(8, 16),
        gain=f(36),
    )
    entry = check(model, {"x": f(2, 3, 8)}, 0, "unchanged")
    assert "several spaces" in entry.skips[0].text


def test_rows_side_by_side():
    """Merged patches: the norm subtracts the mean of both rows, not that of each."""
    model = parse(
        """g (float[b, 4, 8] x) => (float[b, 2, 5] y) {
            e = MatMul(x, w)
            even = Slice(e, zero, four, one, two)
            odd = Slice(e, one, four, one, two)
            c = Concat<axis = -1>(even, odd)
            n = LayerNormalization<axis = -1>(c, gain)
            y = MatMul(n, v)
        }""",
        w=f(8, 12),
        gain=f(24),
        v=f(24, 5),
        **{name: np.array([k]) for k, name in ((0, "zero"), (1, "one"), (2, "two"), (4, "four"))},
    )
    entry = check(model, {"x": f(2, 4, 8)}, 0, "unchanged")
    assert "of several rows" in entry.skips[0].text


def test_norms_of_heads():
    model = parse(
        """g (float[b, s, 8] x) => (float[b, s, 4, 16] y) {
            e = MatMul(x, w)
            c = Add(e, bias)
            h = Reshape(c, heads)
            y = LayerNormalization<axis = -1>(h, gain)
        }""",
        w=f(8, 64),
        bias=f(64),
        heads=np.array([0, 0, 4, 16]),
        gain=f(16),
    )
    check(model, {"x": f(2, 3, 8)}, 1)
    np.testing.assert_allclose(array(model, "w").reshape(8, 4, 16).mean(-1), 0, atol=1e-6)


def test_convolutions_write_too():
    model = parse(
        """g (float[b, 3, 6, 6] x) => (float[b, 6, 6, 16] y) {
            c = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(x, w, bias)
            t = Transpose<perm = [0, 2, 3, 1]>(c)
            y = LayerNormalization<axis = -1>(t, gain)
        }""",
        w=f(16, 3, 3, 3),
        bias=f(16),
        gain=f(16),
    )
    check(model, {"x": f(2, 3, 6, 6)}, 1)


@pytest.mark.parametrize("inner", ["Conv<kernel_shape = [3, 3], group = 16>(a, k)", "Pad(a, p, v)"])
def test_what_cannot_be_centered(inner):
    own = {"k": f(16, 1, 3, 3)} if "Conv" in inner else {"p": np.array([0] * 8), "v": f(1)[0]}
    if "p" in own:
        own["p"][[2, 6]] = 1
    model = parse(
        f"""g (float[b, 3, 6, 6] x) => (float[b, h, w2, 16] y) {{
            a = Conv<kernel_shape = [1, 1]>(x, w)
            c = {inner}
            t = Transpose<perm = [0, 2, 3, 1]>(c)
            y = LayerNormalization<axis = -1>(t, gain)
        }}""",
        w=f(16, 3, 1, 1),
        gain=f(16),
        **own,
    )
    check(model, {"x": f(2, 3, 6, 6)}, 0, "unchanged")


def test_norms_over_rows_too_stay():
    model = parse(
        """g (float[b, 5, 8] x) => (float[b, 5, 16] y) {
            e = MatMul(x, w)
            y = LayerNormalization<axis = -2>(e, gain)
        }""",
        w=f(8, 16),
        gain=f(5, 16),
    )
    check(model, {"x": f(2, 5, 8)}, 0, "unchanged")


def test_a_mean_that_is_read():
    model = parse(
        """g (float[b, 8] x) => (float[b, 16] y, float[b, 1] m) {
            e = MatMul(x, w)
            y, m = LayerNormalization<axis = -1>(e, gain)
        }""",
        w=f(8, 16),
        gain=f(16),
    )
    entry = check(model, {"x": f(3, 8)}, 0, "unchanged")
    assert entry.skips[0].text == "its mean or its variance is read"


@pytest.mark.parametrize(("name", "made"), [("vit", 5), ("bert", 1), ("decoder", 0), ("cnn", 0)])
@pytest.mark.parametrize("fold", ["", "fold-norm-gain, "])
def test_tiny_models(name, made, fold):
    feeds = tiny.sample_feeds(name, 0)
    with Context(samples=[feeds]) as context:
        recipe = Recipe.of(f"canonicalize, {fold}ln-to-rms, ln-to-rms, rotate")
        _, report = Pipeline(recipe, context, verify="full").run(tiny.TINY[name](0))
    first, second = (entry for entry in report.passes if entry.name == "ln-to-rms")
    assert [change.text for change in first.changes].count("now an RMSNorm") == made
    assert first.status == ("applied" if made else "unchanged")
    assert second.status == "unchanged"
    if fold and made > 1:  # then a rotation passes through the whole stream
        assert any("5 writers, 4 readers, 1 border" in n.text for n in report.passes[-1].changes)
