"""Softmax that is written out, and what is left over of operators that stay in parts."""

import numpy as np
import pytest
from support.graphs import apply, assert_same, census, parse, run

from bitfold.passes.canonicalize.canonicalize import Canonicalize

SOFTMAX = """g (float[b, s, 6] x) => (float[b, s, 6] y) {
    axes = Constant<value_ints = [SUMMED]>()
    others = Constant<value_ints = [LARGEST]>()
    largest = ReduceMax(x, others)
    z = SHIFTED
    power = Exp(z)
    total = ReduceSum(power, axes)
    END
}"""
ENDS = {
    "Softmax": "y = Div(power, total)",
    "LogSoftmax": "log = Log(total)\ny = Sub(z, log)",
}


def check(text):
    model = parse(text)
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 5, 6)).astype(np.float32) * 3}
    before = run(model, feeds)
    entry = apply(Canonicalize(), model)
    assert_same(before, run(model, feeds))
    return census(model), entry


@pytest.mark.parametrize("operator", ENDS)
@pytest.mark.parametrize("shifted", ["Sub(x, largest)", "Identity(x)"])
@pytest.mark.parametrize(("axis", "other"), [("-1", "2"), ("1", "-2"), ("0", "0")])
def test_softmax_written_out(operator, shifted, axis, other):
    text = SOFTMAX.replace("END", ENDS[operator]).replace("SHIFTED", shifted)
    found, _ = check(text.replace("SUMMED", axis).replace("LARGEST", other))
    assert found == {operator: 1}


@pytest.mark.parametrize("operator", ENDS)
def test_sums_over_other_axes_stay(operator):
    text = SOFTMAX.replace("END", ENDS[operator]).replace("SHIFTED", "Sub(x, largest)")
    found, entry = check(text.replace("SUMMED", "1, 2").replace("LARGEST", "1"))
    assert operator not in found
    assert any("not over one axis" in skip.text for skip in entry.skips)


@pytest.mark.parametrize("operator", ENDS)
def test_what_is_largest_along_another_axis_is_no_part_of_it(operator):
    text = SOFTMAX.replace("END", ENDS[operator]).replace("SHIFTED", "Sub(x, largest)")
    found, _ = check(text.replace("SUMMED", "1").replace("LARGEST", "2"))
    assert found == {operator: 1, "ReduceMax": 1, "Sub": 1}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            "t = Transpose<perm = [0, 2, 1]>(x)\np = MatMul(x, t)\nc = Clip(p)\n"
            "w = Softmax(c)\ny = MatMul(w, x)",
            "between product and softmax there is Clip",
        ),
        (
            "t = Transpose<perm = [0, 2, 1]>(x)\np = MatMul(x, t)\nw = Softmax(p)\n"
            "d = Neg(w)\ne = Neg(d)\nf = Identity(e)\ny = MatMul(f, x)",
            "",
        ),
        ("e = Erf(x)\ny = Neg(e)", "its Erf is not between GELU's constants"),
        (
            "a = Constant<value_ints = [-1]>()\nq = Mul(x, x)\nm = ReduceMean(q, a)\n"
            "r = Sqrt(m)\ny = Mul(x, r)",
            "its root of a mean is used in another way",
        ),
    ],
)
def test_what_stays_in_parts_is_told(body, reason):
    _, entry = check(f"g (float[b, s, 6] x) => (float[b, s, 6] y) {{\n{body}\n}}")
    texts = [skip.text for skip in entry.skips]
    assert any(reason in text for text in texts) if reason else not texts
    kept = Canonicalize(keep=("attention", "gelu", "rms-norm"))
    model = parse(f"g (float[b, s, 6] x) => (float[b, s, 6] y) {{\n{body}\n}}")
    assert not [s for s in apply(kept, model).skips if s.text.startswith("not raised to A")]


FLAT = """g (float[b, s, LAST] x) => (float[b, s, n] y) {
    TO_MATRIX
    rows = OPERATOR<axis = OVER>(matrix)
    shape = Shape(x)
    y = Reshape(rows, shape)
}"""


def flat(operator, last="6", cut="2", over="-1"):
    """Of a matrix cut at an axis, or made by a Reshape to rows of some length."""
    made = f"matrix = Flatten<axis = {cut}>(x)"
    if cut.startswith("["):
        made = f"wanted = Constant<value_ints = {cut}>()\nmatrix = Reshape(x, wanted)"
    text = FLAT.replace("LAST", last).replace("TO_MATRIX", made)
    return check(text.replace("OPERATOR", operator).replace("OVER", over))


@pytest.mark.parametrize("operator", ENDS)
@pytest.mark.parametrize("last", ["6", "k"])
@pytest.mark.parametrize(("cut", "over"), [("2", "-1"), ("-1", "1")])
def test_softmax_of_a_matrix(operator, last, cut, over):
    found, _ = flat(operator, last, cut, over)
    assert found == {operator: 1}


def test_softmax_of_a_reshaped_matrix():
    assert flat("Softmax", cut="[-1, 6]")[0] == {"Softmax": 1}
    assert flat("Softmax", cut="[1, -1, 6]", over="2")[0] == {"Softmax": 1}


@pytest.mark.parametrize("operator", ENDS)
@pytest.mark.parametrize(
    ("cut", "over", "reason"),
    [
        ("1", "-1", "not known to be the last axis"),
        ("[-1, 3]", "-1", "not known to be the last axis"),
        ("2", "0", "not over the rows"),
    ],
)
def test_softmax_of_another_matrix_stays(operator, cut, over, reason):
    found, entry = flat(operator, cut=cut, over=over)
    assert found[operator] == 1
    assert found["Reshape"] == 2 or found["Flatten"] == 1
    assert any(reason in skip.text for skip in entry.skips)


def test_softmax_of_a_matrix_that_stays_one():
    text = """g (float[2, 5, 6] x) => (float[10, 6] y) {
        wanted = Constant<value_ints = [10, 6]>()
        matrix = Reshape(x, wanted)
        rows = Softmax(matrix)
        y = Reshape(rows, wanted)
    }"""
    found, entry = check(text)
    assert found["Softmax"] == found["Reshape"] == 1  # the second one changed nothing
    assert not entry.skips


def test_softmax_of_a_matrix_of_known_sizes():
    text = """g (float[2, 5, 6] x) => (float[2, 5, 6] y) {
        wanted = Constant<value_ints = [10, 6]>()
        matrix = Reshape(x, wanted)
        rows = Softmax(matrix)
        shape = Constant<value_ints = [2, 5, 6]>()
        y = Reshape(rows, shape)
    }"""
    assert check(text)[0] == {"Softmax": 1}
