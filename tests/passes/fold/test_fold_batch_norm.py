"""BatchNormalization folds into the linear op before or after it; refusals say why."""

import numpy as np
import pytest
from support.graphs import apply, assert_same, census, parse, run, text_of

from bitfold.models import tiny
from bitfold.passes.canonicalize.canonicalize import Canonicalize
from bitfold.passes.fold.fold_batch_norm import FoldBatchNorm

RNG = np.random.default_rng(0)


def f(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def statistics(channels):
    return {
        "gain": RNG.uniform(0.5, 2, channels).astype(np.float32),
        "beta": f(channels),
        "mean": f(channels),
        "variance": RNG.uniform(0.5, 2, channels).astype(np.float32),
    }


NORM = "BatchNormalization<epsilon = 0.001>({}, gain, beta, mean, variance)"


def check(model, feeds, status="applied"):
    before = run(model, feeds)
    entry = apply(FoldBatchNorm(), model)
    assert entry.status == status
    assert_same(before, run(model, feeds))
    return entry


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_into_the_convolution_before(op, groups, bias):
    inputs = "x, w, bias" if bias else "x, w"
    shape = (6, 6 // groups, 3, 3)
    model = parse(
        f"""g (float[b, 6, h, v] x) => (float[b, 6, i, j] y) {{
            c = {op}<group = {groups}, pads = [1, 1, 1, 1]>({inputs})
            y = {NORM.format("c")}
        }}""",
        w=f(*shape),
        **statistics(6),
        **({"bias": f(6)} if bias else {}),
    )
    check(model, {"x": f(2, 6, 5, 7)})
    assert census(model) == {op: 1}
    assert model.graph[0].outputs[0].name == "y"


@pytest.mark.parametrize("op", ["MatMul(x, w)", "Gemm(x, w)", "Gemm<transB = 1>(x, w)"])
def test_into_the_matrix_product_before(op):
    shape = (8, 6) if "transB" in op else (6, 8)
    model = parse(
        f"""g (float[r, 6] x) => (float[r, 8] y) {{
            c = {op}
            y = {NORM.format("c")}
        }}""",
        w=f(*shape),
        **statistics(8),
    )
    check(model, {"x": f(5, 6)})
    assert "BatchNormalization" not in census(model)


@pytest.mark.parametrize(
    ("op", "shape", "groups"),
    [("Conv<group = 1>", (4, 6, 3, 3), 1), ("Conv<group = 3>", (9, 2, 1, 1), 3)],
)
def test_into_the_convolution_after(op, shape, groups):
    model = parse(
        f"""g (float[b, 6, h, v] x) => (float[b, {shape[0]}, i, j] y) {{
            r = Relu(x)
            n = {NORM.format("r")}
            y = {op}(n, w)
        }}""",
        w=f(*shape),
        **statistics(6),
    )
    check(model, {"x": f(2, 6, 5, 7)})
    assert census(model) == {"Relu": 1, "Conv": 1}


@pytest.mark.parametrize("op", ["MatMul(n, w)", "Gemm<transB = 1>(n, w)"])
def test_into_the_matrix_product_after(op):
    model = parse(
        f"""g (float[r, 6] x) => (float[r, 8] y) {{
            n = {NORM.format("x")}
            y = {op}
        }}""",
        w=f(*((8, 6) if "transB" in op else (6, 8))),
        **statistics(6),
    )
    check(model, {"x": f(5, 6)})
    assert "BatchNormalization" not in census(model)


REFUSED = [
    ("r = Relu(x)\nn = {norm}\ny = Conv<pads = [1, 1, 1, 1]>(n, w)", "r", "pads its input"),
    ("r = Relu(x)\nn = {norm}\ny = Abs(n)", "r", "no linear op; Abs"),
    ("c = Conv(x, w)\nn = {norm}\nz = Sigmoid(c)\ny = Mul(n, z)", "c", "others read its input too"),
    (
        "r = Relu(x)\nn = {norm}\nz = Conv(n, w)\nm = Conv(n, w)\ny = Add(z, m)",
        "r",
        "more than one",
    ),
]


@pytest.mark.parametrize(("body", "source", "reason"), REFUSED)
def test_refusals(body, source, reason):
    constants = statistics(6) | ({"w": f(6, 6, 3, 3)} if ", w)" in body else {})
    text = body.format(norm=NORM.format(source))
    model = parse(f"g (float[b, 6, h, v] x) => (float[b, 6, i, j] y) {{ {text} }}", **constants)
    before = text_of(model)
    entry = check(model, {"x": f(2, 6, 5, 7)}, "unchanged")
    assert text_of(model) == before
    assert reason in entry.skips[0].text


def test_statistics_that_are_inputs_are_refused():
    statistic = statistics(6)
    variance = statistic.pop("variance")
    model = parse(
        f"""g (float[b, 6, h, v] x, float[6] variance) => (float[b, 6, i, j] y) {{
            c = Conv(x, w)
            y = {NORM.format("c")}
        }}""",
        w=f(6, 6, 1, 1),
        **statistic,
    )
    entry = check(model, {"x": f(2, 6, 5, 7), "variance": variance}, "unchanged")
    assert "not constants" in entry.skips[0].text


def test_a_shared_weight_is_not_changed_for_others():
    model = parse(
        f"""g (float[b, 6, h, v] x) => (float[b, 6, i, j] y, float[b, 6, i, j] z) {{
            c = Conv(x, w)
            y = {NORM.format("c")}
            z = Conv(x, w)
        }}""",
        w=f(6, 6, 1, 1),
        **statistics(6),
    )
    check(model, {"x": f(2, 6, 3, 3)})
    assert census(model) == {"Conv": 2}


def test_tiny_cnn():
    model = tiny.TINY["cnn"](2)
    apply(Canonicalize(), model)
    entry = check(model, tiny.sample_feeds("cnn", 2))
    assert len(entry.changes) == 11
    assert "BatchNormalization" not in census(model)


ARITHMETIC = [
    ("y = Mul(c, each)", "y = Mul(one, c)"),
    ("s = Mul(each, c)  y = Add(s, each)", "s = Mul(c, one)  y = Add(one, s)"),
    ("s = Sub(c, each)  y = Div(s, each)", "s = Sub(c, one)  y = Div(s, one)"),
    ("y = Sub(each, c)", "y = Sub(one, c)"),
]
BODIES = [body for pair in ARITHMETIC for body in pair]


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_arithmetic_per_channel_into_the_convolution_before(op, bias, body):
    """As Paddle's exporter writes normalization."""
    inputs = "x, w, bias" if bias else "x, w"
    constants = {"each": f(1, 6, 1, 1) + 3, "one": f(1), "w": f(6, 3, 3, 3), "bias": f(6)}
    model = parse(
        f"""g (float[b, 6, h, v] x) => (float[b, 6, i, j] y) {{
            c = {op}<group = 2, pads = [1, 1, 1, 1]>({inputs})  {body}
        }}""",
        **{name: array for name, array in constants.items() if name in inputs + body},
    )
    check(model, {"x": f(2, 6, 5, 7)})
    assert census(model) == {op: 1}
    assert model.graph[0].outputs[0].name == "y"


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("groups", [1, 3])
def test_arithmetic_per_channel_into_the_convolution_after(groups, body):
    constants = {"each": f(6, 1, 1) + 3, "one": f(1)}
    model = parse(
        f"""g (float[b, 6, h, v] x) => (float[b, 6, i, j] z) {{
            c = Relu(x)  {body}  z = Conv<group = {groups}>(y, w)
        }}""",
        w=f(6, 6 // groups, 3, 3),
        **{name: array for name, array in constants.items() if name in body},
    )
    check(model, {"x": f(2, 6, 5, 7)})
    assert census(model) == {"Relu": 1, "Conv": 1}


def test_a_factor_goes_into_a_padded_convolution_but_a_shift_does_not():
    body = """g (float[b, 6, h, v] x) => (float[b, 6, h, v] z) {{
        y = {}(x, each)  z = Conv<pads = [1, 1, 1, 1]>(y, w)
    }}"""
    weights = {"each": f(1, 6, 1, 1), "w": f(6, 6, 3, 3)}
    scaled = parse(body.format("Mul"), **weights)
    check(scaled, {"x": f(2, 6, 5, 7)})
    assert census(scaled) == {"Conv": 1}
    shifted = parse(body.format("Add"), **weights)
    entry = check(shifted, {"x": f(2, 6, 5, 7)}, "unchanged")
    assert "pads its input" in entry.skips[0].text


@pytest.mark.parametrize(
    ("body", "constants"),
    [
        ("c = Conv(x, w)  y = Mul(c, k)", {"k": (6,)}),  # stretches over the last axis
        ("c = Conv(x, w)  y = Mul(c, k)", {"k": (1, 6, 1, 6)}),
        ("c = Conv(x, w)  y = Mul(c, k)", {"k": (1, 1, 1, 1, 1)}),
        ("c = Conv(x, w)  y = Div(k, c)", {"k": (1, 6, 1, 1)}),
        ("c = Conv(x, w)  d = Mul(c, k)  y = Add(c, d)", {"k": (1, 6, 1, 1)}),
        ("c = Relu(x)  y = Mul(c, k)", {"k": (1, 6, 1, 1)}),
    ],
)
def test_other_arithmetic_stays(body, constants):
    text = f"g (float[b, 6, 8, 8] x) => (float[b, 6, i, j] y) {{ {body} }}"
    if (1, 1, 1, 1, 1) in constants.values():
        text = text.replace("float[b, 6, i, j] y", "float[u, b, 6, i, j] y")
    weights = {"w": f(6, 6, 3, 3)} if "Conv" in body else {}
    model = parse(text, **weights, **{name: f(*shape) for name, shape in constants.items()})
    before = census(model)
    check(model, {"x": f(2, 6, 8, 8)}, "unchanged")
    assert census(model) == before


def test_a_division_by_zero_stays():
    model = parse(
        "g (float[b, 6, h, v] x) => (float[b, 6, i, j] y) { c = Conv(x, w)  y = Div(c, k) }",
        w=f(6, 6, 1, 1),
        k=np.zeros((1, 6, 1, 1), np.float32),
    )
    assert apply(FoldBatchNorm(), model).status == "unchanged"
