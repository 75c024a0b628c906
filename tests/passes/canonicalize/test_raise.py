"""Each raised operator: what is recognized, that it computes the same, and what is declined."""

import math

import numpy as np
import pytest
from support.graphs import apply, assert_same, census, parse, run, text_of

from bitfold.passes.canonicalize.canonicalize import Canonicalize
from bitfold.runtime.errors import RecipeError

RNG = np.random.default_rng(0)
ROOT = math.sqrt(2.0)
TANH = math.sqrt(2 / math.pi)


def number(name, value):
    return f"{name} = Constant<value_float = {value!r}>()\n"


SCALARS = (
    number("two", 2.0)
    + number("one", 1.0)
    + number("half", 0.5)
    + number("three", 3.0)
    + number("four", 4.0)
    + number("eps", 1e-5)
    + number("root2", ROOT)
    + number("inv_root2", 1 / ROOT)
    + number("cubic", 0.044715)
    + number("tanh_scale", TANH)
    + "last = Constant<value_ints = [-1]>()\n"
)


def one_input(body):
    return f"g (float[b, s, 24] x) => (float[b, s, 24] y) {{\n{SCALARS}{body}\n}}"


def canonicalized(body, **constants):
    """The model before and after on one input; returns (census, entry)."""
    model = parse(one_input(body), **constants)
    feeds = {"x": RNG.standard_normal((2, 5, 24)).astype(np.float32) * 3}
    before = run(model, feeds)
    entry = apply(Canonicalize(), model)
    assert_same(before, run(model, feeds))
    return census(model), entry


GAIN = RNG.uniform(0.5, 2, 24).astype(np.float32)
BIAS = RNG.standard_normal(24).astype(np.float32)

RMS_SQUARES = ["sq = Pow(x, two)", "sq = Mul(x, x)"]
RMS_NORMALS = [
    "n = Div(x, r)",
    "i = Reciprocal(r)\nn = Mul(x, i)",
    "i = Reciprocal(r)\nn = Mul(i, x)",
    "i = Div(one, r)\nn = Mul(x, i)",
]
RMS_GAINS = ["y = Mul(n, gain)", "y = Mul(gain, n)"]


@pytest.mark.parametrize("square", RMS_SQUARES)
@pytest.mark.parametrize("normal", RMS_NORMALS)
@pytest.mark.parametrize("scale", RMS_GAINS)
def test_every_spelling_of_rms_norm_is_raised(square, normal, scale):
    body = f"{square}\nm = ReduceMean(sq, last)\nme = Add(eps, m)\nr = Sqrt(me)\n{normal}\n{scale}"
    found, entry = canonicalized(body, gain=GAIN)
    assert found == {"RMSNormalization": 1}
    assert [change.site for change in entry.changes] == ["y"]


@pytest.mark.parametrize(
    ("body", "constants", "reason"),
    [
        (
            "sq = Pow(x, four)\nm = ReduceMean(sq, last)\nme = Add(m, eps)\nr = Sqrt(me)\n"
            "n = Div(x, r)\ny = Mul(n, gain)",
            {"gain": GAIN},
            "the power is not 2",
        ),
    ],
)
def test_what_is_nearly_an_rms_norm_stays_and_is_reported(body, constants, reason):
    found, entry = canonicalized(body, **constants)
    assert "RMSNormalization" not in found
    assert reason in "".join(skip.text for skip in entry.skips)


LAYER_NORM = (
    "mu = ReduceMean(x, last)\nc = Sub(x, mu)\n{square}\nv = ReduceMean(sq, last)\n"
    "ve = Add(v, eps)\nr = Sqrt(ve)\n{normal}\n"
)


@pytest.mark.parametrize("square", ["sq = Pow(c, two)", "sq = Mul(c, c)"])
@pytest.mark.parametrize(
    "normal",
    ["n = Div(c, r)", "i = Reciprocal(r)\nn = Mul(c, i)", "i = Div(one, r)\nn = Mul(i, c)"],
)
@pytest.mark.parametrize(
    ("end", "inputs"),
    [
        ("y = Mul(n, gain)", 2),
        ("a = Mul(gain, n)\ny = Add(a, bias)", 3),
        ("a = Mul(n, gain)\ny = Add(bias, a)", 3),
    ],
)
def test_every_spelling_of_layer_norm_is_raised(square, normal, end, inputs):
    constants = {"gain": GAIN} | ({"bias": BIAS} if inputs == 3 else {})
    model = parse(one_input(LAYER_NORM.format(square=square, normal=normal) + end), **constants)
    feeds = {"x": RNG.standard_normal((2, 5, 24)).astype(np.float32)}
    before = run(model, feeds)
    apply(Canonicalize(), model)
    assert census(model) == {"LayerNormalization": 1}
    assert len(model.graph[0].inputs) == inputs
    assert_same(before, run(model, feeds))


def test_a_residual_is_no_layer_norm_bias():
    body = LAYER_NORM.format(square="sq = Mul(c, c)", normal="n = Div(c, r)")
    found, entry = canonicalized(body + "a = Mul(n, gain)\ny = Add(a, x)", gain=GAIN)
    assert found == {"LayerNormalization": 1, "Add": 1}
    assert not entry.skips  # another graph, not a near miss


@pytest.mark.parametrize(
    "outer",
    [
        "a = Mul(x, p)\ny = Mul(a, half)",
        "a = Mul(p, x)\ny = Mul(half, a)",
        "a = Mul(x, half)\ny = Mul(a, p)",
        "a = Mul(half, x)\ny = Mul(p, a)",
        "a = Mul(half, p)\ny = Mul(x, a)",
        "a = Mul(p, half)\ny = Mul(a, x)",
    ],
)
@pytest.mark.parametrize(
    "inner",
    [
        "d = Div(x, root2)\ne = Erf(d)\np = Add(e, one)",
        "d = Mul(inv_root2, x)\ne = Erf(d)\np = Add(one, e)",
        "c = Pow(x, three)\nk = Mul(cubic, c)\nq = Add(x, k)\nu = Mul(tanh_scale, q)\n"
        "t = Tanh(u)\np = Add(one, t)",
        "w = Mul(x, x)\nc = Mul(x, w)\nk = Mul(c, cubic)\nq = Add(k, x)\nu = Mul(q, tanh_scale)\n"
        "t = Tanh(u)\np = Add(t, one)",
    ],
)
def test_every_spelling_of_gelu_is_raised(inner, outer):
    found, _ = canonicalized(f"{inner}\n{outer}")
    assert found == {"Gelu": 1}


def test_a_gelu_with_another_constant_stays():
    found, entry = canonicalized(
        "d = Div(x, two)\ne = Erf(d)\np = Add(e, one)\na = Mul(x, p)\ny = Mul(a, half)"
    )
    assert "Gelu" not in found
    assert "is not 1.41421" in entry.skips[0].text


@pytest.mark.parametrize(
    "body",
    [
        "g0 = Sigmoid(x)\ny = Mul(g0, x)",
        "n = Neg(x)\ne = Exp(n)\nd = Add(one, e)\ny = Div(x, d)",
    ],
)
def test_silu_takes_its_normal_form(body):
    model = parse(one_input(body))
    feeds = {"x": RNG.standard_normal((2, 5, 24)).astype(np.float32)}
    before = run(model, feeds)
    apply(Canonicalize(), model)
    mul = model.graph[-1]
    assert census(model) == {"Sigmoid": 1, "Mul": 1}
    assert mul.inputs[0].name == "x"
    assert mul.inputs[1].producer().op_type == "Sigmoid"
    assert_same(before, run(model, feeds))


def test_a_tiny_epsilon_is_not_taken_for_zero():
    # 1e-12 is BERT's; a row of equal values would give NaN without it.
    body = number("tiny", 1e-12) + LAYER_NORM.format(
        square="sq = Mul(c, c)", normal="n = Div(c, r)"
    ).replace("Add(v, eps)", "Add(v, tiny)")
    model = parse(one_input(body + "y = Mul(n, gain)"), gain=GAIN)
    apply(Canonicalize(), model)
    assert np.all(np.isfinite(run(model, {"x": np.ones((1, 2, 24), np.float32)})["y"]))


def test_gemm_is_raised_for_matrices_only():
    text = """g (float[r, 24] x, float[b, s, 24] z) => (float[r, 8] y, float[b, s, 8] v) {
        a = MatMul(x, w)
        y = Add(bias, a)
        c = MatMul(z, w)
        v = Add(c, bias)
    }"""
    weight, bias = RNG.standard_normal((24, 8)).astype("f4"), RNG.standard_normal(8).astype("f4")
    model = parse(text, w=weight, bias=bias)
    feeds = {"x": np.ones((3, 24), np.float32), "z": np.ones((2, 3, 24), np.float32)}
    before = run(model, feeds)
    apply(Canonicalize(), model)
    assert text_of(model) == ["y = Gemm(x, w, bias)", "c = MatMul(z, w)", "v = Add(c, bias)"]
    assert_same(before, run(model, feeds))


def test_what_keep_names_is_not_raised():
    body = "g0 = Sigmoid(x)\ny = Mul(g0, x)"
    model = parse(one_input(body))
    apply(Canonicalize(keep=("silu",)), model)
    assert model.graph[-1].inputs[0].producer().op_type == "Sigmoid"
    with pytest.raises(RecipeError, match="'selu'"):
        apply(Canonicalize(keep=("selu",)), model)
