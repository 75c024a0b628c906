"""What only looks like a raised operator: other types, and constants that stretch the result."""

from __future__ import annotations

import re

import numpy as np
import pytest
from support.graphs import apply, assert_same, census, parse, run

from bitfold.passes.canonicalize.canonicalize import Canonicalize

SWISH = "a = Add(x, three) b = Clip(a, zero, six) m = Mul(x, b) y = Div(m, six)"
SIGMOID = "a = Add(x, three) b = Clip(a, zero, six) y = Div(b, six)"
RMS = """s = Mul(x, x) m = ReduceMean<keepdims = 1>(s, axes) e = Add(m, eps) r = Sqrt(e)
    n = Div(x, r) y = Mul(n, gain)"""
LAYER = f"mu = ReduceMean<keepdims = 1>(x, axes) c = Sub(x, mu) {RMS}".replace("x, x", "c, c")
LAYER = LAYER.replace("Div(x, r)", "Div(c, r)")


def values(*shape, dtype=np.float32):
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(dtype)


def canonicalized(text, feeds, **constants):
    """The operators that are left; the outputs, their shapes included, are as they were."""
    used = {n: array for n, array in constants.items() if re.search(rf"[(,] ?{n}\b", text)}
    model = parse(text, **used)
    before = run(model, feeds)
    apply(Canonicalize(), model)
    assert_same(before, run(model, feeds))
    return census(model)


@pytest.mark.parametrize("body", [SWISH, SIGMOID], ids=["swish", "sigmoid"])
@pytest.mark.parametrize(
    ("kind", "dtype"), [("double", np.float64), ("int32", np.int32), ("float", np.float32)]
)
def test_gates_are_raised_in_float_alone(body, kind, dtype):
    numbers = {"three": 3, "zero": 0, "six": 6}
    constants = {name: np.array(number, dtype) for name, number in numbers.items()}
    feeds = {"x": np.arange(-3, 3).astype(dtype).reshape(2, 3)}
    text = f"g ({kind}[2, 3] x) => ({kind}[2, 3] y) {{ {body} }}"
    found = canonicalized(text, feeds, **constants)
    assert bool(found["HardSwish"] + found["HardSigmoid"]) == (kind == "float")


def test_instance_norm_is_raised_in_float_alone():
    text = "g (double[2, 3, 8] x) => (double[2, 3, 8] y) { " + LAYER + " }"
    gain = values(3, 1, dtype=np.float64)
    constants = {"axes": np.array([-1]), "eps": np.array(1e-5), "gain": gain}
    found = canonicalized(text, {"x": values(2, 3, 8, dtype=np.float64)}, **constants)
    assert not found["InstanceNormalization"]


@pytest.mark.parametrize(
    ("inside", "outside", "body", "constants"),
    [
        ("3", "1, 1, 3", "a = Mul(x, k) s = Add(a, h) y = Clip(s, low, high)", {"k": (1, 1, 1)}),
        ("3", "1, 3", "a = Mul(x, k) s = Add(h, a) y = Clip(s, low, high)", {"h": (1, 1)}),
        ("2, 8", "1, 2, 8", RMS, {"gain": (1, 1, 8)}),
        ("2, 8", "1, 2, 8", RMS, {"gain": (8,), "eps": (1, 1, 1)}),
        ("2, 8", "1, 2, 8", LAYER, {"gain": (1, 1, 8)}),
    ],
)
def test_constants_of_more_axes_keep_their_axes(inside, outside, body, constants):
    numbers = {"k": 0.2, "h": 0.5, "low": 0.0, "high": 1.0, "eps": 1e-5, "gain": 1.5}
    arrays = {
        name: np.full(constants.get(name, ()), number, np.float32)
        for name, number in numbers.items()
    }
    text = f"g (float[{inside}] x) => (float[{outside}] y) {{ {body} }}"
    feeds = {"x": values(*map(int, inside.split(",")))}
    canonicalized(text, feeds, axes=np.array([-1]), **arrays)


def test_channel_norm_with_a_gain_of_more_axes():
    text = "g (float[2, 3, 4, 5] x) => (float[1, 2, 3, 4, 5] y) { " + LAYER + " }"
    constants = {"axes": np.array([1]), "eps": np.array(1e-5, np.float32)}
    canonicalized(text, {"x": values(2, 3, 4, 5)}, gain=values(1, 1, 3, 1, 1), **constants)


@pytest.mark.parametrize("size", [1, 4])
def test_a_gain_does_not_tell_the_size_of_what_it_may_stretch(size):
    text = "g (float[a, b] x) => (float[a, 4] y) { " + RMS + " }"
    constants = {"axes": np.array([-1]), "eps": np.array(1e-5, np.float32), "gain": values(4)}
    assert not canonicalized(text, {"x": values(3, size)}, **constants)["RMSNormalization"]
