"""What surrounds convolutions: biases, padding, gates, products; each computes the same after."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.graphs import apply, assert_same, census, parse, run

from bitfold.passes.canonicalize.canonicalize import Canonicalize

RNG = np.random.default_rng(0)


def f(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def number(name, value):
    return f"{name} = Constant<value_float = {value!r}>()\n"


NUMBERS = (
    number("zero", 0.0)
    + number("half", 0.5)
    + number("one", 1.0)
    + number("three", 3.0)
    + number("six", 6.0)
    + number("sixth", 1 / 6)
    + number("minus", -1.0)
)


def check(body, feeds=None, dims="b, 6, h, w", out="b, c, i, j", **constants):
    """Canonicalize ``body`` and compare; returns (census, entry, model)."""
    text = f"g (float[{dims}] x) => (float[{out}] y) {{\n{NUMBERS}{body}\n}}"
    model = parse(text, **constants)
    feeds = feeds if feeds is not None else {"x": 4 * f(2, 6, 9, 8)}
    before = run(model, feeds)
    entry = apply(Canonicalize(), model)
    assert_same(before, run(model, feeds))
    return census(model), entry, model


RELU6 = "a = Add({0}, {1})  r = Clip(a, zero, six)"
HARD_SWISH = [
    "m = Mul(x, r)  y = Div(m, six)",
    "m = Mul(r, x)  y = Mul(m, sixth)",
    "m = Mul(r, x)  y = Mul(sixth, m)",
    "d = Div(x, six)  y = Mul(r, d)",
    "d = Mul(x, sixth)  y = Mul(d, r)",
    "d = Div(r, six)  y = Mul(x, d)",
    "d = Mul(sixth, r)  y = Mul(d, x)",
]


@pytest.mark.parametrize("body", HARD_SWISH)
@pytest.mark.parametrize("order", [("x", "three"), ("three", "x")])
def test_every_spelling_of_hard_swish_is_raised(order, body):
    found, entry, _ = check(f"{RELU6.format(*order)}\n{body}")
    assert found == {"HardSwish": 1}
    assert [change.site for change in entry.changes][-1:] == ["y"]


@pytest.mark.parametrize(
    "body",
    [
        "s = HardSigmoid<alpha = 0.16666667, beta = 0.5>(x)  y = Mul(x, s)",
        "s = HardSigmoid<alpha = 0.16666667>(x)  y = Mul(s, x)",
        "d = Div(x, six)  l = Add(d, half)  s = Clip(l, zero, one)  y = Mul(x, s)",
        "d = Mul(sixth, x)  l = Add(half, d)  s = Clip(l, zero, one)  y = Mul(s, x)",
        "a = Add(x, three)  p = Relu(a)  r = Min(p, six)  m = Mul(x, r)  y = Div(m, six)",
        "a = Add(x, three)  p = Max(zero, a)  r = Min(six, p)  m = Mul(x, r)  y = Div(m, six)",
    ],
)
def test_hard_swish_through_its_gate(body):
    assert check(body)[0] == {"HardSwish": 1}


@pytest.mark.parametrize(
    ("body", "slope"),
    [
        ("a = Add(x, three)  r = Clip(a, zero, six)  y = Div(r, six)", 1 / 6),
        ("m = Mul(x, sixth)  a = Add(m, half)  y = Clip(a, zero, one)", 1 / 6),
        ("m = Mul(half, x)  a = Add(sixth, m)  y = Clip(a, zero, one)", 0.5),
        ("m = Div(x, three)  a = Add(m, half)  y = Clip(a, zero, one)", 1 / 3),
    ],
)
def test_hard_sigmoids_are_raised(body, slope):
    found, _, model = check(body)
    assert found == {"HardSigmoid": 1}
    assert model.graph[0].attributes.get_float("alpha") == pytest.approx(slope)


@pytest.mark.parametrize(
    "body",
    [
        "a = Add(x, six)  r = Clip(a, zero, six)  m = Mul(x, r)  y = Div(m, six)",
        "a = Add(x, three)  r = Clip(a, zero, six)  m = Mul(x, r)  y = Div(m, three)",
        "a = Add(x, three)  r = Clip(a, zero, six)  t = Neg(x)  m = Mul(t, r)  y = Div(m, six)",
        "s = HardSigmoid<alpha = 0.2>(x)  y = Mul(x, s)",
    ],
)
def test_other_gates_stay(body):
    found, entry, _ = check(body)
    assert "HardSwish" not in found
    assert not entry.changes


@pytest.mark.parametrize(
    "body",
    [
        "m = Max(x, minus)  y = Min(m, six)",
        "m = Max(minus, x)  y = Min(six, m)",
        "m = Min(x, six)  y = Max(m, minus)",
        "m = Min(six, x)  y = Max(minus, m)",
        "m = Relu(x)  y = Min(m, six)",
        "m = Relu(x)  y = Min(six, m)",
        "m = Relu(x)  y = Clip(m, minus, six)",
        "m = Relu(x)  y = Clip(m, half, six)",
    ],
)
def test_limits_are_raised_to_clip(body):
    found, entry, _ = check(body)
    assert found == {"Clip": 1}
    assert entry.changes[0].text.startswith("Clip raised")


def test_limits_in_the_wrong_order_stay():
    found, entry, _ = check("m = Max(x, six)  y = Min(m, minus)")
    assert found == {"Max": 1, "Min": 1}
    assert "6 to -1 is no range" in entry.skips[0].text


def test_a_limit_that_adds_axes_stays():
    limit = np.full((1, 1, 1, 1, 1), 2, np.float32)
    body = "m = Max(x, minus)  y = Min(m, k)"
    assert check(body, out="a, b, c, d, e", k=limit)[0] == {"Max": 1, "Min": 1}


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("shape", [(1, 6, 1, 1), (6, 1, 1)])
@pytest.mark.parametrize("order", ["c, k", "k, c"])
@pytest.mark.parametrize("bias", [False, True])
def test_what_is_added_for_each_channel_is_the_bias(op, shape, order, bias):
    inputs, constants = ("x, w, b", {"b": f(6)}) if bias else ("x, w", {})
    body = f"c = {op}<group = 2, pads = [1, 0, 1, 0]>({inputs})  y = Add({order})"
    found, entry, model = check(body, w=f(6, 3, 3, 3), k=f(*shape), **constants)
    assert found == {op: 1}
    assert len(model.graph[0].inputs) == 3
    assert [change.site for change in entry.changes] == ["y"]


@pytest.mark.parametrize("shape", [(1, 6, 1, 6), (6,), (2, 6, 1, 1)])
def test_other_constants_are_no_bias(shape):
    body = "c = Conv(x, w)  y = Add(c, k)"
    found, entry, _ = check(body, {"x": f(2, 6, 8, 8)}, w=f(6, 6, 3, 3), k=f(*shape))
    assert found == {"Conv": 1, "Add": 1}
    assert "not a constant for each channel" in entry.skips[0].text


def test_residual_connections_are_not_mentioned():
    body = "c = Conv<pads = [1, 1, 1, 1]>(x, w)  r = Relu(c)  a = Add(c, x)  y = Add(a, r)"
    found, entry, _ = check(body, w=f(6, 6, 3, 3))
    assert found["Add"] == 2
    assert not entry.changes
    assert not entry.skips


def test_a_convolution_that_others_read_keeps_its_add():
    body = "c = Conv(x, w)  a = Add(c, k)  r = Relu(c)  y = Add(a, r)"
    found, entry, _ = check(body, w=f(6, 6, 3, 3), k=f(1, 6, 1, 1))
    assert found == {"Conv": 1, "Add": 2, "Relu": 1}
    assert "others read c too" in entry.skips[0].text


@settings(max_examples=30, deadline=None)
@given(
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    padding=st.sampled_from(["SAME_UPPER", "SAME_LOWER"]),
    size=st.tuples(st.integers(5, 9), st.integers(5, 9)),
)
def test_same_padding_is_spelled_out_for_every_size(kernel, padding, size):
    body = f'y = Conv<auto_pad = "{padding}">(x, w)'
    _, _, model = check(body, {"x": f(1, 6, *size)}, w=f(2, 6, *kernel))
    (conv,) = model.graph
    assert conv.attributes.get_string("auto_pad", "NOTSET") == "NOTSET"
    assert sum(conv.attributes.get_ints("pads")) == sum(kernel) - 2


def test_same_padding_of_spread_windows():
    """ONNX Runtime does not run auto_pad with dilations: only the size can be compared."""
    body = 'y = Conv<auto_pad = "SAME_UPPER", dilations = [3, 2]>(x, w)'
    text = f"g (float[b, 6, h, w] x) => (float[b, 2, i, j] y) {{ {body} }}"
    model = parse(text, w=f(2, 6, 2, 4))
    apply(Canonicalize(), model)
    assert model.graph[0].attributes.get_ints("pads") == (1, 3, 2, 3)
    assert run(model, {"x": f(1, 6, 9, 8)})["y"].shape == (1, 2, 9, 8)


def test_same_padding_of_a_stride_depends_on_the_size():
    body = 'y = Conv<auto_pad = "SAME_UPPER", strides = [2, 2]>(x, w)'
    _, entry, model = check(body, w=f(2, 6, 3, 3))
    assert model.graph[0].attributes.get_string("auto_pad") == "SAME_UPPER"
    assert "depends on the input's size" in entry.skips[0].text


PADS = np.array([0, 0, 1, 2, 0, 0, 2, 1])


@pytest.mark.parametrize(
    ("body", "constants"),
    [
        ("p = Pad(x, pads)  y = Conv(p, w)", {"pads": PADS}),
        ("p = Pad(x, pads, zero)  y = Conv<pads = [1, 0, 0, 1]>(p, w)", {"pads": PADS}),
        (
            "p = Pad(x, pads, , axes)  y = Conv(p, w)",
            {"pads": np.array([1, 2, 3, 4]), "axes": np.array([2, 3])},
        ),
    ],
)
def test_padding_goes_into_the_convolution(body, constants):
    assert check(body, w=f(4, 6, 3, 3), **constants)[0] == {"Conv": 1}


@pytest.mark.parametrize(
    "pool",
    [
        "kernel_shape = [3, 3]",
        "kernel_shape = [3, 3], strides = [2, 2]",
        "kernel_shape = [4, 4], pads = [1, 1, 1, 0], count_include_pad = 1",
    ],
)
@pytest.mark.parametrize(
    ("pad", "constants"),
    [
        ("p = Pad(x, pads)", {"pads": PADS}),
        (
            "p = Pad(x, pads, zero, axes)",
            {"pads": np.array([1, 2, 2, 1]), "axes": np.array([2, -1])},
        ),
    ],
)
def test_padding_goes_into_the_average(pool, pad, constants):
    found, _, model = check(f"{pad}  y = AveragePool<{pool}>(p)", **constants)
    assert found == {"AveragePool": 1}
    assert model.graph[0].attributes.get_int("count_include_pad") == 1


@pytest.mark.parametrize(
    ("body", "constants", "reason"),
    [
        (
            "p = Pad(x, pads, one)  y = AveragePool<kernel_shape = [3, 3]>(p)",
            {"pads": PADS},
            "zeros",
        ),
        (
            'p = Pad<mode = "reflect">(x, pads)  y = AveragePool<kernel_shape = [3, 3]>(p)',
            {"pads": PADS},
            "constant",
        ),
        (
            "p = Pad(x, pads)  y = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(p)",
            {"pads": PADS},
            "does not count",
        ),
        (
            "p = Pad(x, pads)  y = AveragePool<kernel_shape = [3, 3], ceil_mode = 1>(p)",
            {"pads": PADS},
            "over the edge",
        ),
        (
            "p = Pad(x, pads)  y = AveragePool<kernel_shape = [3, 3]>(p)",
            {"pads": np.array([0, 1, 0, 0, 0, 0, 0, 0])},
            "other axes",
        ),
        (
            "p = Pad(x, pads)  y = AveragePool<kernel_shape = [3, 3]>(p)",
            {"pads": np.array([0, 0, -1, 0, 0, 0, 0, 0])},
            "cuts off",
        ),
    ],
)
def test_other_padding_stays_before_the_average(body, constants, reason):
    found, entry, _ = check(body, **constants)
    assert found == {"Pad": 1, "AveragePool": 1}
    assert reason in entry.skips[0].text


def test_padding_as_large_as_the_window_stays():
    """ONNX Runtime refuses it, so only the rewrite itself is looked at."""
    body = "p = Pad(x, pads)  y = AveragePool<kernel_shape = [2, 2]>(p)"
    text = f"g (float[b, 6, h, w] x) => (float[b, 6, i, j] y) {{ {body} }}"
    model = parse(text, pads=PADS)
    entry = apply(Canonicalize(), model)
    assert census(model) == {"Pad": 1, "AveragePool": 1}
    assert "as large as the window" in entry.skips[0].text


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rank", [3, 4])
def test_a_pointwise_convolution_of_channels_last_data_is_a_matmul(rank, bias):
    there, back = {3: ([0, 2, 1], [0, 2, 1]), 4: ([0, 3, 1, 2], [0, 2, 3, 1])}[rank]
    inputs, constants = ("t, w, b", {"b": f(5)}) if bias else ("t, w", {})
    body = f"t = Transpose<perm = {there}>(x)  c = Conv({inputs})  y = Transpose<perm = {back}>(c)"
    dims, size = ("n, h, v, 6", (2, 4, 3, 6)) if rank == 4 else ("n, h, 6", (2, 4, 6))
    weight = f(5, 6, *(1,) * (rank - 2))
    found, _, _ = check(body, {"x": f(*size)}, dims, dims, w=weight, **constants)
    assert set(found) - {"Transpose"} == {"MatMul"} | ({"Add"} if bias else set())
    assert found["Transpose"] <= 1  # of the weight


@pytest.mark.parametrize(
    ("conv", "weight"),
    [("", (5, 6, 3, 3)), ("<group = 2>", (6, 3, 1, 1)), ("<strides = [2, 2]>", (5, 6, 1, 1))],
)
def test_other_convolutions_between_transposes_stay(conv, weight):
    body = f"""
        t = Transpose<perm = [0, 3, 1, 2]>(x)  c = Conv{conv}(t, w)
        y = Transpose<perm = [0, 2, 3, 1]>(c)
    """
    found, entry, _ = check(body, {"x": f(2, 5, 4, 6)}, "n, h, v, 6", w=f(*weight))
    assert found == {"Transpose": 2, "Conv": 1}
    assert entry.skips


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("flatten", ["Flatten(c)", "Reshape(c, rows)"])
def test_a_pointwise_convolution_of_one_pixel_is_a_gemm(flatten, bias):
    inputs, constants = ("p, w, b", {"b": f(5)}) if bias else ("p, w", {})
    if "rows" in flatten:
        constants["rows"] = np.array([0, -1])
    body = f"p = GlobalAveragePool(x)  c = Conv({inputs})  y = {flatten}"
    found, _, _ = check(body, out="b, 5", w=f(5, 6, 1, 1), **constants)
    assert found == {"GlobalAveragePool": 1, "Reshape": 1, "Gemm": 1}


def test_a_convolution_of_many_pixels_stays_one():
    found, _, _ = check("c = Conv(x, w)  y = Flatten(c)", out="b, k", w=f(5, 6, 1, 1))
    assert found["Conv"] == 1


@pytest.mark.parametrize("dims", ["n, 6", "b, n, 6"])
def test_a_weight_on_the_left_of_what_is_transposed_goes_to_the_right(dims):
    perm = {2: [1, 0], 3: [0, 2, 1]}[dims.count(",") + 1]
    body = f"t = Transpose<perm = {perm}>(x)  c = MatMul(w, t)  y = Transpose<perm = {perm}>(c)"
    shape = (4, 6) if len(perm) == 2 else (2, 4, 6)
    found, entry, model = check(body, {"x": f(*shape)}, dims, dims, w=f(5, 6))
    assert found["MatMul"] == 1
    (product,) = (node for node in model.graph if node.op_type == "MatMul")
    assert product.inputs[0].name == "x"
    assert found["Transpose"] <= 1  # of the weight
    assert any("on the right" in change.text for change in entry.changes)


@pytest.mark.parametrize("behind", [False, True])
def test_a_transpose_on_one_side_is_enough(behind):
    body = "c = MatMul(w, x)  y = Transpose<perm = [0, 2, 1]>(c)"
    if not behind:
        body = "t = Transpose<perm = [0, 2, 1]>(x)  y = MatMul(w, t)"
    shape, dims = ((2, 6, 4), "b, 6, n") if behind else ((2, 4, 6), "b, n, 6")
    _, _, model = check(body, {"x": f(*shape)}, dims, "b, p, q", w=f(5, 6))
    (product,) = (node for node in model.graph if node.op_type == "MatMul")
    assert product.inputs[0].const_value is None
    assert tuple(product.inputs[1].shape) == (6, 5)


def test_a_weight_on_the_left_of_other_transposes_stays():
    body = "t = Transpose<perm = [1, 2, 0]>(x)  y = MatMul(w, t)"
    found, entry, _ = check(body, {"x": f(4, 2, 6)}, "n, b, 6", "b, p, q", w=f(5, 6))
    assert found == {"Transpose": 1, "MatMul": 1}
    assert "last two axes" in entry.skips[0].text
