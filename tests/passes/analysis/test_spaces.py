"""Spaces of small graphs, each with something that coordinates must be followed through."""

import numpy as np
import pytest
from support.graphs import parse
from support.space_checks import CHANGES, assert_exact

from bitfold.models import tiny
from bitfold.passes.analysis.spaces.find_spaces import find_spaces
from bitfold.passes.analysis.spaces.reshaping import reshaped
from bitfold.passes.analysis.spaces.symmetry import (
    CENTER,
    NONE,
    PERMUTE,
    ROTATE,
    SCALE,
)
from bitfold.passes.analysis.spaces.trace import Kind
from bitfold.passes.analysis.spaces.trace_model import trace_model
from bitfold.passes.canonicalize.canonicalize import Canonicalize
from bitfold.passes.core.context import Context

RNG = np.random.default_rng(0)


def f(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def spaces(model, symmetry=ROTATE):
    return find_spaces(trace_model(model), symmetry)


def facts(space):
    return (space.size, space.blocks, len(space.writers), len(space.readers))


def one(found, size, blocks=1):
    (space,) = [each for each in found if (each.size, each.blocks) == (size, blocks)]
    return space


def residual(norm="RMSNormalization<axis = -1>(h, ones)"):
    return parse(
        f"""g (int64[b, s] ids) => (float[b, s, 8] y) {{
            e = Gather(table, ids)
            n = RMSNormalization<axis = -1>(e, ones)
            a = MatMul(n, up)
            r = Relu(a)
            d = MatMul(r, down)
            h = Add(e, d)
            o = {norm}
            y = MatMul(o, head)
        }}""",
        table=f(20, 16),
        ones=np.ones(16, np.float32),
        up=f(16, 24),
        down=f(24, 16),
        head=f(16, 8),
        **({"gain": f(16)} if "gain" in norm else {}),
    )


def test_residual_stream():
    stream, hidden, behind, logits = spaces(residual())
    assert facts(stream) == (16, 1, 2, 2)
    assert [held.port.op.op_type for held in stream.writers] == ["Gather", "MatMul"]
    assert stream.group & (ROTATE | SCALE | PERMUTE) == ROTATE | PERMUTE
    assert stream.carriers == {"Gather": 1, "RMSNormalization": 2, "MatMul": 1, "Add": 1}
    assert (facts(hidden), facts(behind)) == ((24, 1, 1, 0), (24, 1, 0, 1))
    assert all("Relu" in each.why_not(ROTATE) for each in (hidden, behind))
    scaled = one(spaces(residual(), SCALE), 24)
    assert facts(scaled) == (24, 1, 1, 1)
    assert scaled.allows(SCALE)
    assert logits.group == NONE
    assert "output y" in logits.why_not(ROTATE)


def test_a_gain_stops_rotations_alone():
    model = residual("RMSNormalization<axis = -1>(h, gain)")
    stream = one(spaces(model, PERMUTE), 16)
    assert facts(stream) == (16, 1, 2, 2)
    assert "fold-norm-gain" in stream.why_not(ROTATE)
    assert stream.why_not(PERMUTE) == ""
    scaled = [each for each in spaces(model, SCALE) if each.size == 16 and each.allows(SCALE)]
    assert [facts(each) for each in scaled] == [(16, 1, 0, 1), (16, 1, 0, 1)]  # behind the norms


def test_a_layer_norm_allows_centering():
    model = parse(
        """g (float[b, s, 8] x) => (float[b, s, 4] y) {
            e = MatMul(x, w)
            f = Add(e, c)
            n = LayerNormalization<axis = -1>(f, gain, bias)
            y = MatMul(n, v)
        }""",
        w=f(8, 16),
        c=f(16),
        gain=f(16),
        bias=f(16),
        v=f(16, 4),
    )
    before = one([s for s in spaces(model, CENTER) if s.writers], 16)
    assert before.allows(CENTER)
    assert not before.allows(ROTATE)
    assert "ln-to-rms" in before.why_not(ROTATE)
    kinds = [held.port.kind for held in before.held]
    assert kinds == [Kind.WEIGHT, Kind.BIAS, Kind.GAIN]


GQA = """g (float[b, s, 12] x) => (float[b, s, 12] y) {{
    q = MatMul(x, wq)
    k = MatMul(x, wk)
    v = MatMul(x, wv)
    {middle}
    y = MatMul(o, wo)
}}"""
IN_ONE = "o = Attention<q_num_heads = 6, kv_num_heads = 2>(q, k, v)"
IN_PARTS = """
    q4 = Reshape(q, to_q)
    qt = Transpose<perm = [0, 2, 1, 3]>(q4)
    k4 = Reshape(k, to_kv)
    kt = Transpose<perm = [0, 2, 3, 1]>(k4)
    k5 = Unsqueeze(kt, two)
    ke = Expand(k5, three_k)
    kh = Reshape(ke, k_heads)
    v4 = Reshape(v, to_kv)
    vt = Transpose<perm = [0, 2, 1, 3]>(v4)
    v5 = Unsqueeze(vt, two)
    ve = Expand(v5, three)
    vh = Reshape(ve, v_heads)
    scores = MatMul(qt, kh)
    p = Softmax<axis = -1>(scores)
    mixed = MatMul(p, vh)
    back = Transpose<perm = [0, 2, 1, 3]>(mixed)
    o = Reshape(back, flat)
"""


@pytest.mark.parametrize("middle", [IN_ONE, IN_PARTS])
def test_shared_heads(middle):
    ints = {
        "to_q": [0, 0, 6, 4],
        "to_kv": [0, 0, 2, 4],
        "two": [2],
        "three": [1, 1, 3, 1, 1],
        "three_k": [1, 1, 3, 1, 1],
        "v_heads": [0, 6, -1, 4],
        "k_heads": [0, 6, 4, -1],
        "flat": [0, 0, 24],
    }
    used = {name: np.array(each) for name, each in ints.items() if name in middle}
    text = GQA.format(middle=middle)
    if middle == IN_PARTS:  # the rows' length must be known to follow the reshapes
        text = text.replace("[b, s, 12]", "[b, 5, 12]")
    model = parse(text, wq=f(12, 24), wk=f(12, 8), wv=f(12, 8), wo=f(24, 12), **used)
    found = spaces(model)
    values = [each for each in found if each.readers]
    assert [facts(each) for each in values] == [(4, 2, 1, 1)]
    (reader,) = values[0].readers
    np.testing.assert_array_equal(
        reader.views(1, 4), [[12, 13, 14, 15], [16, 17, 18, 19], [20, 21, 22, 23]]
    )
    assert values[0].allows(ROTATE)
    (pair,) = [each for each in found if len(each.writers) == 2]
    assert (pair.size, pair.blocks) == (4, 2)
    assert pair.allows(ROTATE)
    (scaled,) = [each for each in spaces(model, SCALE) if len(each.writers) == 2]
    assert [bool(held.inverse.all()) for held in scaled.writers] in ([False, True], [True, False])


def test_rotary_pairs_scale_together():
    text = GQA.format(
        middle="""
        q4 = Reshape(q, to_q)
        qt = Transpose<perm = [0, 2, 1, 3]>(q4)
        qr = RotaryEmbedding(qt, cos, sin, at)
        k4 = Reshape(k, to_q)
        kt = Transpose<perm = [0, 2, 1, 3]>(k4)
        kr = RotaryEmbedding(kt, cos, sin, at)
        v4 = Reshape(v, to_q)
        vt = Transpose<perm = [0, 2, 1, 3]>(v4)
        a = Attention(qr, kr, vt)
        at4 = Transpose<perm = [0, 2, 1, 3]>(a)
        o = Reshape(at4, flat)
        """
    ).replace("x)", "x, int64[b, s] at)")
    model = parse(
        text,
        wq=f(12, 24),
        wk=f(12, 24),
        wv=f(12, 24),
        wo=f(24, 12),
        to_q=np.array([0, 0, 6, 4]),
        flat=np.array([0, 0, 24]),
        cos=f(9, 2),
        sin=f(9, 2),
    )
    (pair,) = [each for each in spaces(model) if len(each.writers) == 2]
    assert "by position" in pair.why_not(ROTATE)
    (scaled,) = [each for each in spaces(model, SCALE) if len(each.writers) == 2]
    assert (scaled.size, scaled.blocks) == (2, 6)
    assert scaled.allows(SCALE)
    np.testing.assert_array_equal(scaled.writers[0].place[:8], [0, 1, 0, 1, 0, 1, 0, 1])


def test_fused_projection_is_cut_into_its_spaces():
    model = parse(
        """g (float[b, s, 8] x) => (float[b, s, 8] y) {
            qkv = MatMul(x, w)
            q, k, v = Split<axis = -1, num_outputs = 3>(qkv)
            o = Attention<q_num_heads = 2, kv_num_heads = 2>(q, k, v)
            y = MatMul(o, wo)
        }""",
        w=f(8, 48),
        wo=f(16, 8),
    )
    (values,) = [each for each in spaces(model) if each.readers]
    (writer,) = values.writers
    assert (values.size, values.blocks) == (8, 2)
    assert writer.place.tolist() == [-1] * 32 + [*range(8)] * 2


def test_concatenated_channels_are_two_spaces():
    model = parse(
        """g (float[1, 3, 6, 6] x) => (float[1, 4, 6, 6] y) {
            a = Conv<kernel_shape = [1, 1]>(x, v)
            b = Conv<kernel_shape = [1, 1]>(a, w)
            c = Concat<axis = 1>(a, b)
            y = Conv<kernel_shape = [1, 1]>(c, u)
        }""",
        v=f(5, 3, 1, 1),
        w=f(7, 5, 1, 1),
        u=f(4, 12, 1, 1),
    )
    first, second = one(spaces(model), 5), one(spaces(model), 7)
    assert (len(first.readers), len(second.readers)) == (2, 1)
    assert second.readers[0].place.tolist() == [-1] * 5 + [*range(7)]
    assert first.allows(ROTATE)


def test_depthwise_ties_the_order_alone():
    model = parse(
        """g (float[1, 3, 6, 6] x) => (float[1, 4, 4, 4] y) {
            a = Conv<kernel_shape = [1, 1]>(x, v)
            r = Relu(a)
            d = Conv<kernel_shape = [3, 3], group = 6>(r, k)
            s = Relu(d)
            y = Conv<kernel_shape = [1, 1]>(s, u)
        }""",
        v=f(6, 3, 1, 1),
        k=f(6, 1, 3, 3),
        u=f(4, 6, 1, 1),
    )
    assert facts(one(spaces(model, PERMUTE), 6)) == (6, 1, 1, 1)
    scaled = [each for each in spaces(model, SCALE) if each.size == 6]
    assert [each.allows(SCALE) for each in scaled] == [True, True]
    assert not any(each.allows(ROTATE) for each in scaled)


def test_a_gate_leaves_one_side_free():
    model = parse(
        """g (float[b, s, 8] x) => (float[b, s, 8] y) {
            a = MatMul(x, gate)
            t = Sigmoid(a)
            z = Mul(a, t)
            u = MatMul(x, up)
            p = Mul(z, u)
            y = MatMul(p, down)
        }""",
        gate=f(8, 20),
        up=f(8, 20),
        down=f(20, 8),
    )
    assert facts(one(spaces(model, PERMUTE), 20)) == (20, 1, 2, 1)
    free = [each for each in spaces(model, SCALE) if each.allows(SCALE) and each.size == 20]
    assert [each.name for each in free] == ["u"]
    assert facts(free[0]) == (20, 1, 1, 1)


def test_a_slope_for_each_channel():
    model = parse(
        """g (float[2, 3, 6, 6] x) => (float[2, 4, 6, 6] y) {
            a = Conv<kernel_shape = [1, 1]>(x, w)
            r = PRelu(a, slope)
            y = Conv<kernel_shape = [1, 1]>(r, v)
        }""",
        w=f(12, 3, 1, 1),
        slope=f(12, 1, 1),
        v=f(4, 12, 1, 1),
    )
    assert facts(one(spaces(model, SCALE), 12)) == (12, 1, 1, 1)
    assert one(spaces(model, PERMUTE), 12).group == SCALE | PERMUTE
    slope = model.graph.initializers["slope"]
    stored = slope.const_value.numpy()
    for symmetry in (SCALE, PERMUTE):
        assert one(assert_exact(model, {"x": f(2, 3, 6, 6)}, symmetry), 12)
        same = np.array_equal(slope.const_value.numpy(), stored)
        assert same == (symmetry is SCALE)


PIXELS = {
    "DCR": ("DepthToSpace<blocksize = 2, mode = 'DCR'>", 32, (12, 12), 8),
    "CRD": ("DepthToSpace<blocksize = 2, mode = 'CRD'>", 32, (12, 12), 8),
    "depth": ("SpaceToDepth<blocksize = 2>", 8, (3, 3), 32),
}


@pytest.mark.parametrize("way", PIXELS)
def test_pixels_and_channels(way):
    operator, made, (height, width), read = PIXELS[way]
    model = parse(
        f"""g (float[2, 3, 6, 6] x) => (float[2, 4, {height}, {width}] y) {{
            a = Conv<kernel_shape = [1, 1]>(x, w, bias)
            p = {operator}(a)
            y = Conv<kernel_shape = [1, 1]>(p, v)
        }}""".replace("'", '"'),
        w=f(made, 3, 1, 1),
        bias=f(made),
        v=f(4, read, 1, 1),
    )
    for symmetry in CHANGES:
        space = one(assert_exact(model, {"x": f(2, 3, 6, 6)}, symmetry), 8)
        assert facts(space) == (8, 1, 1, 1)


def test_spaces_end_at_what_nobody_knows():
    model = parse(
        """g (float[b, 8] x) => (float[b, 4] y) {
            a = MatMul(x, w)
            c = CumSum(a, axis)
            y = MatMul(c, v)
        }""",
        w=f(8, 6),
        v=f(6, 4),
        axis=np.array(1),
    )
    first = one([each for each in spaces(model) if each.writers], 6)
    assert first.group == NONE
    assert "CumSum" in first.why_not(PERMUTE)


def test_a_value_that_a_subgraph_reads_is_left_alone():
    model = parse(
        """g (float[b, 8] x, bool c) => (float[b, 4] y) {
            a = MatMul(x, w)
            d = If(c) <then_branch = t () => (float[b, 6] p) { p = Neg(a) },
                       else_branch = e () => (float[b, 6] q) { q = Identity(a) }>
            y = MatMul(d, v)
        }""",
        w=f(8, 6),
        v=f(6, 4),
    )
    assert one([each for each in spaces(model) if each.writers], 6).group == NONE


@pytest.mark.parametrize(
    ("shape", "old", "new", "expected"),
    [
        ((1, 1, 6), ["b", "s", 6], ["b", "s", 2, 3], (1, 1, 2, 3)),
        ((1, 1, 2, 3), ["b", "s", 2, 3], ["b", "s", 6], (1, 1, 6)),
        ((1, 2, 1, 3), ["b", 2, "s", 3], ["b2", "s", 3], (2, 1, 3)),
        ((2, 1, 3), ["b2", "s", 3], ["b", 2, "s", 3], (1, 2, 1, 3)),
        ((1, 1, 6), ["b", "s", 6], ["bs", 6], (1, 6)),
        ((1, 6, 1, 1), ["b", 6, 2, 2], ["b", 24], (1, 24)),
        ((1, 1, 6), [1, 5, 6], [5, 6], (1, 6)),
        ((1, 2, 1, 3), ["b", 2, "s", 3], ["b", "s", 6], None),
        ((1, 2, 1), [2, 2, "s"], ["q", 2], None),
    ],
)
def test_reshapes(shape, old, new, expected):
    ids = np.arange(np.prod(shape)).reshape(shape)
    found = reshaped(ids, old, new)
    assert (None if found is None else found.shape) == expected
    if found is not None and found.size == ids.size:
        np.testing.assert_array_equal(found.ravel(), ids.ravel())


@pytest.mark.parametrize(("name", "writers"), [("decoder", 5), ("bert", 3)])
def test_tiny_models(name, writers):
    model = tiny.TINY[name](0)
    with Context() as context:
        Canonicalize().run(model, context)
    streams = [each for each in spaces(model, PERMUTE) if "Add" in each.carriers]
    assert max(len(each.writers) for each in streams) >= writers
