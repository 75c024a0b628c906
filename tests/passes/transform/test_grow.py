"""Duplicated channels change no output, in whatever operators a space may pass through."""

import numpy as np
import pytest
from support.graphs import assert_same, census, parse, run
from support.space_checks import grow_all

from bitfold.models import tiny
from bitfold.passes.canonicalize.canonicalize import Canonicalize
from bitfold.passes.core.context import Context
from bitfold.passes.core.pipeline import Pipeline
from bitfold.passes.core.recipe import Recipe

RNG = np.random.default_rng(0)


def f(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def canonical(name):
    with Context() as context:
        model, _ = Pipeline(Recipe((Canonicalize(),)), context).run(tiny.TINY[name](0))
    return model


def check(model, feeds, grown=None):
    before = run(model, feeds)
    nodes = census(model)
    spaces, reasons = grow_all(model)
    for value in (v for node in model.graph for v in node.outputs if v.shape is not None):
        assert all(dim != 0 for dim in value.shape)
    assert_same(before, run(model, feeds), 1e-5)
    assert census(model) == nodes
    if grown is not None:
        assert [space.name for space in spaces] == grown
    return spaces, reasons


def test_hidden_layers_with_biases_and_any_function():
    model = parse(
        """g (float[b, 12] x) => (float[b, 7] y) {
            a = MatMul(x, up)
            c = Add(a, bias)
            h = Gelu(c)
            s = Mul(h, gain)
            t = Sigmoid(s)
            y = Gemm<transB = 1>(t, down, out)
        }""",
        up=f(12, 20), bias=f(20), gain=f(1, 20), down=f(7, 20), out=f(7),
    )  # fmt: skip
    spaces, _ = check(model, {"x": f(5, 12)})
    assert len(spaces) == 1
    assert model.graph.initializers["down"].shape[1] > 20


def test_convolutions_depthwise_ones_and_what_squeezes_and_excites():
    model = parse(
        """g (float[b, 3, 8, 8] x) => (float[b, 5] y) {
            a = Conv<pads = [1, 1, 1, 1]>(x, first, b1)
            r = Clip(a, zero, six)
            d = Conv<group = 12, pads = [1, 1, 1, 1]>(r, deep, b2)
            s = Sigmoid(d)
            m = Mul(d, s)
            p = GlobalAveragePool(m)
            q = Conv(p, squeeze)
            t = Relu(q)
            e = Conv(t, excite, b3)
            w = Sigmoid(e)
            g1 = Mul(m, w)
            z = Conv(g1, last)
            i = Relu(z)
            u = GlobalAveragePool(i)
            v = Reshape(u, flat)
            y = Gemm(v, head)
        }""",
        zero=np.float32(0), six=np.float32(6), first=f(12, 3, 3, 3), b1=f(12),
        deep=f(12, 1, 3, 3), b2=f(12), squeeze=f(4, 12, 1, 1), excite=f(12, 4, 1, 1), b3=f(12),
        last=f(9, 12, 1, 1), flat=np.array([-1, 9]), head=f(9, 5),
    )  # fmt: skip
    spaces, _ = check(model, {"x": f(2, 3, 8, 8)})
    assert sorted(space.size for space in spaces) == [4, 9, 12]
    deep = next(node for node in model.graph if node.inputs[1].name == "deep")
    assert deep.attributes["group"].as_int() == deep.inputs[1].shape[0] > 12
    assert model.graph.initializers["flat"].const_value.numpy()[1] > 9


def test_residual_convolutions_and_batch_norms():
    model = parse(
        """g (float[b, 3, 6, 6] x) => (float[b, 2, 3, 3] y) {
            a = Conv(x, first)
            n = BatchNormalization(a, scale, shift, mean, var)
            c = Conv(n, inner)
            r = Add(n, c)
            m = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(r)
            y = Conv(m, last)
        }""",
        first=f(8, 3, 1, 1), scale=f(8), shift=f(8), mean=f(8), var=np.exp(f(8)),
        inner=f(8, 8, 1, 1), last=f(2, 8, 1, 1),
    )  # fmt: skip
    spaces, _ = check(model, {"x": f(2, 3, 6, 6)})
    assert len(spaces) == 1
    inner = model.graph.initializers["inner"].shape
    assert inner[0] == inner[1] > 8  # written and read by one weight


@pytest.mark.parametrize(
    "split", ["Split<axis = -1, num_outputs = 2>(both)", "Split<axis = -1>(both, halves)"]
)
def test_gates_that_a_split_takes_apart(split):
    own = {"halves": np.array([10, 10])} if "halves" in split else {}
    model = parse(
        f"""g (float[b, s, 6] x) => (float[b, s, 4] y) {{
            both = MatMul(x, up)
            gate, value = {split}
            g1 = Sigmoid(gate)
            h = Mul(g1, value)
            y = MatMul(h, down)
        }}""",
        up=f(6, 20), down=f(10, 4), **own,
    )  # fmt: skip
    spaces, _ = check(model, {"x": f(2, 3, 6)})
    assert [space.size for space in spaces] == [10]


def test_what_is_joined_of_two_spaces():
    model = parse(
        """g (float[b, 6] x) => (float[b, 4] y) {
            a = MatMul(x, left)
            ra = Relu(a)
            c = MatMul(x, right)
            sc = Sigmoid(c)
            j = Concat<axis = 1>(ra, sc)
            y = MatMul(j, down)
        }""",
        left=f(6, 5), right=f(6, 7), down=f(12, 4),
    )  # fmt: skip
    spaces, _ = check(model, {"x": f(3, 6)})
    assert sorted(space.size for space in spaces) == [5, 7]


def test_a_transposed_weight_that_others_read():
    model = parse(
        """g (float[b, 6] x) => (float[b, 6] y, float[b, 6] z) {
            a = MatMul(x, up)
            r = Relu(a)
            turned = Transpose<perm = [1, 0]>(up)
            y = MatMul(r, turned)
            z = Relu(x)
        }""",
        up=f(6, 10),
    )
    check(model, {"x": f(3, 6)})


@pytest.mark.parametrize(
    ("body", "constants", "reason"),
    [
        ("n = RMSNormalization<axis = -1>(a, gain)", {"gain": f(8)}, "how many channels"),
        ("n = LayerNormalization<axis = -1>(a, gain)", {"gain": f(8)}, "how many channels"),
        ("n = Softmax<axis = -1>(a)", {}, "how many channels"),
        ("m = ReduceMean(a, last)\nn = Sub(a, m)", {"last": np.array([-1])}, "along the channels"),
        ("t = Transpose<perm = [0, 2, 1]>(a)\nm = MatMul(a, t)\nn = MatMul(m, a)", {}, ""),
        ("q = Reshape(a, heads)\nr = Relu(q)\nn = Reshape(r, flat)",
         {"heads": np.array([0, 0, 2, 4]), "flat": np.array([0, 0, 8])}, "or parts them"),
        ("s = Shape(a)\nc = Cast<to = 1>(s)\nd = ReduceSum(c)\nn = Mul(a, d)", {}, "how many"),
    ],
)  # fmt: skip
def test_what_counts_channels_keeps_their_number(body, constants, reason):
    model = parse(
        f"""g (float[2, 3, 6] x) => (float[2, 3, 5] y) {{
            a = MatMul(x, up)
            {body}
            y = MatMul(n, down)
        }}""",
        up=f(6, 8), down=f(8, 5), **constants,
    )  # fmt: skip
    spaces, reasons = check(model, {"x": f(2, 3, 6)})
    assert not spaces
    assert any(reason in each for each in reasons)


def test_channels_that_are_flattened_with_their_pixels_stay():
    model = parse(
        """g (float[b, 3, 2, 2] x) => (float[b, 5] y) {
            a = Conv(x, first)
            r = Relu(a)
            v = Flatten(r)
            y = Gemm(v, head)
        }""",
        first=f(8, 3, 1, 1), head=f(32, 5),
    )  # fmt: skip
    spaces, reasons = check(model, {"x": f(2, 3, 2, 2)})
    assert not spaces
    assert any("joins channels with rows" in reason for reason in reasons)


def test_groups_of_a_convolution_stay_alike():
    model = parse(
        """g (float[b, 4, 5, 5] x) => (float[b, 6, 5, 5] y) {
            a = Conv(x, first)
            r = Relu(a)
            y = Conv<group = 2>(r, second)
        }""",
        first=f(8, 4, 1, 1), second=f(6, 4, 1, 1),
    )  # fmt: skip
    spaces, _ = check(model, {"x": f(2, 4, 5, 5)})
    assert not spaces


@pytest.mark.parametrize("name", sorted(tiny.TINY))
def test_tiny_models(name):
    model = canonical(name)
    feeds = tiny.sample_feeds(name, 0)
    check(model, feeds)
