"""Simplifying keeps every output's name, and lets no subgraph return what is not its own."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from support.graphs import apply, assert_same, census, parse, run

from bitfold.passes.canonicalize.canonicalize import Canonicalize
from bitfold.passes.canonicalize.cleanup import clean_up
from bitfold.passes.core.invariants import check_invariants

X = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
ZERO = np.zeros((), np.float32)
TRUE = np.array(True)


def same_after(model, feeds):
    """The canonicalized model; what it gives, and under which names, is as it was."""
    original = model.clone()
    before = run(original, feeds)
    names = [value.name for value in model.graph.outputs]
    apply(Canonicalize(), model)
    assert [value.name for value in model.graph.outputs] == names
    check_invariants(model, original)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert_same(before, run(model, feeds), 1e-6)
    return model


@pytest.mark.parametrize(
    ("lines", "left"),
    [
        ("y = Exp(x) z = Exp(x)", {"Exp": 1, "Identity": 1}),
        ("y = Exp(x) z = Identity(y)", {"Exp": 1, "Identity": 1}),
        ("z = Exp(x) y = Identity(z)", {"Exp": 1, "Identity": 1}),
        ("y = Exp(x) z = Dropout(y)", {"Exp": 1, "Identity": 1}),
        ("y = Exp(x) z = Cast<to = 1>(y)", {"Exp": 1, "Identity": 1}),
        ("y = Exp(x) z = Add(y, zero)", {"Exp": 1, "Identity": 1}),
        ("h = Exp(x) y = Identity(h) z = Sub(h, zero)", {"Exp": 1, "Identity": 1}),
        ("y = Identity(x) z = Add(x, zero)", {"Identity": 2}),
        ("h = Exp(x) i = Identity(h) y = Neg(i) z = Identity(i)", {"Exp": 1, "Neg": 1}),
    ],
)
def test_outputs_that_are_one_value_keep_their_names(lines, left):
    text = f"g (float[b, 4] x) => (float[b, 4] y, float[b, 4] z) {{ {lines} }}"
    model = parse(text, **({"zero": ZERO} if "zero" in lines else {}))
    assert census(same_after(model, {"x": X})) == left


def test_constant_outputs():
    text = "g (float[b, 4] x) => (float[2] y, float[2] z) { y = Add(c, c) z = Identity(y) }"
    same_after(parse(text, c=np.ones(2, np.float32)), {"x": X})


BRANCHES = """g (float[b, 4] x, bool p) => (float[b, 4] y) {
    r = Exp(x)
    y = If(p)<
        then_branch = a () => (float[b, 4] o) { THEN },
        else_branch = b () => (float[b, 4] q) { q = Neg(r) }
    >
}"""


@pytest.mark.parametrize(
    "line",
    [
        "o = Identity(r)",
        "o = Cast<to = 1>(r)",
        "o = Add(r, zero)",
        "o = Dropout(r)",
        "i = Identity(r) o = Identity(i)",
        "t = Transpose<perm = [1, 0]>(r) o = Transpose<perm = [1, 0]>(t)",
    ],
)
def test_a_branch_does_not_return_what_is_computed_outside(line):
    model = parse(BRANCHES.replace("THEN", line), **({"zero": ZERO} if "zero" in line else {}))
    for flag in (TRUE, ~TRUE):
        found = same_after(model.clone(), {"x": X, "p": flag})
        assert census(found) == {"Exp": 1, "If": 1, "Identity": 1, "Neg": 1}


def test_a_branch_of_constants():
    line = "c = Constant<value_floats = [1.0, 2.0, 3.0, 4.0]>() o = Add(c, c)"
    model = parse(BRANCHES.replace("THEN", line).replace("float[b, 4] o", "float[4] o"))
    same_after(model, {"x": X, "p": ~TRUE})


def test_a_branch_that_is_known_ahead():
    model = parse(BRANCHES.replace("bool p", "float[b, 4] u").replace("THEN", "o = Exp(r)"), p=TRUE)
    clean_up(model, 100)
    assert census(model) == {"Exp": 2}
    assert [value.name for value in model.graph.outputs] == ["y"]
    np.testing.assert_allclose(run(model, {"x": X, "u": X})["y"], np.exp(np.exp(X)), rtol=1e-5)


def test_a_body_that_returns_what_it_is_given():
    model = parse(
        """g (float[b, 4] x) => (float[b, 4] y, float[b, 4] z, float[n, b, 4] s) {
            r = Exp(x)
            y, z, s = Loop(count, go, x, x) <body = body
                (int64 i, bool on, float[b, 4] u, float[b, 4] v)
                => (bool still, float[b, 4] u2, float[b, 4] v2, float[b, 4] each) {
                    still = Identity(on)
                    u2 = Identity(r)
                    v2 = Identity(u)
                    each = Identity(u2)
            }>
        }""",
        count=np.array(2, np.int64),
        go=TRUE,
    )
    same_after(model, {"x": X})


def test_sizes_that_the_output_names_are_kept():
    model = parse("g (float[b, 4] x) => (float[b, 4] y) { h = Exp(x) y = Identity(h) }")
    clean_up(model, 100)
    (output,) = model.graph.outputs
    assert output.shape == ["b", 4]
    assert output.dtype == ir.DataType.FLOAT
