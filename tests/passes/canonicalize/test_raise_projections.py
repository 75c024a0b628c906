"""Linear layers around attention: flattened rows, packed heads, transposes, rows taken."""

import numpy as np
import pytest
from support.graphs import apply, assert_same, census, parse, run

from bitfold.passes.canonicalize.canonicalize import Canonicalize

RNG = np.random.default_rng(0)


def check(text, shape, **constants):
    """Canonicalize; the outputs for a random x stay.  Returns the census, model and entry."""
    model = parse(text, **constants)
    feeds = {"x": RNG.standard_normal(shape).astype(np.float32)}
    before = run(model, feeds)
    entry = apply(Canonicalize(), model)
    assert_same(before, run(model, feeds))
    return census(model), model, entry


FLAT = """g (float[b, s, HEADS] x) => (float[b, s, 6] y) {
    shape = Shape<start = 0, end = 2>(x)
    flat = Constant<value_ints = [-1, 8]>()
    six = Constant<value_ints = [6]>()
    rows = Reshape(x, flat)
    product = Gemm<transB = TURNED>(INPUTS)
    target = Concat<axis = 0>(shape, six)
    out = Reshape(product, target)
    y = Neg(out)
}"""


@pytest.mark.parametrize("turned", [0, 1])
@pytest.mark.parametrize("heads", [(8,), (2, 4)])
@pytest.mark.parametrize("bias", [False, True])
def test_linear_layers_on_flattened_rows(turned, heads, bias):
    text = FLAT.replace("HEADS", ", ".join(map(str, heads))).replace("TURNED", str(turned))
    text = text.replace("INPUTS", "rows, w, bias" if bias else "rows, w")
    constants = {"w": RNG.standard_normal((6, 8) if turned else (8, 6)).astype(np.float32)}
    if bias:
        constants["bias"] = RNG.standard_normal(6).astype(np.float32)
    found, _, _ = check(text, (2, 3, *heads), **constants)
    assert found["MatMul"] == 1
    assert "Gemm" not in found
    assert found["Reshape"] == len(heads) - 1
    assert found["Add"] == bias


def test_a_reshape_that_mixes_rows_keeps_gemm():
    text = FLAT.replace("HEADS", "8").replace("TURNED", "0").replace("INPUTS", "rows, w")
    text = text.replace(
        "shape = Shape<start = 0, end = 2>(x)",
        """s0 = Shape<start = 0, end = 1>(x)
        s1 = Shape<start = 1, end = 2>(x)
        shape = Concat<axis = 0>(s1, s0)""",
    ).replace("float[b, s, 6] y", "float[s, b, 6] y")
    weight = RNG.standard_normal((8, 6)).astype(np.float32)
    found, _, _ = check(text, (2, 3, 8), w=weight)
    assert found["Gemm"] == 1


TAKEN = {
    "gather": """i = Constant<value_int = NUMBER>()
        part = Gather<axis = 0>(turned, i)""",
    "slice": """i = Constant<value_ints = [NUMBER]>()
        j = Constant<value_ints = [NEXT]>()
        cut = Slice(turned, i, j, zero)
        part = Squeeze(cut, zero)""",
    "split": """p0, p1, p2 = Split<axis = 0, num_outputs = 3>(turned)
        part = Squeeze(pNUMBER, zero)""",
}
PACKED = """g (float[b, s, 24] x) => (float[b, 2, s, 4] y) {
    zero = Constant<value_ints = [0]>()
    shape = Constant<value_ints = [0, 0, 3, 2, 4]>()
    packed = Reshape(x, shape)
    turned = Transpose<perm = [2, 0, 3, 1, 4]>(packed)
    TAKEN
    y = Neg(part)
}"""


@pytest.mark.parametrize("taken", TAKEN)
@pytest.mark.parametrize("number", [0, 1, 2])
def test_packed_heads_become_a_split(taken, number):
    part = TAKEN[taken].replace("NUMBER", str(number)).replace("NEXT", str(number + 1))
    found, model, _ = check(PACKED.replace("TAKEN", part), (2, 5, 24))
    assert found == {"Split": 1, "Reshape": 1, "Transpose": 1, "Neg": 1}
    transpose = next(node for node in model.graph if node.op_type == "Transpose")
    assert list(transpose.attributes.get_ints("perm", [])) == [0, 2, 1, 3]


def test_a_reshape_that_takes_heads_from_elsewhere_stays():
    # [b, s, 24] to [b, s / 2, 3, 4, 4]: the parts are not thirds of the last axis.
    text = PACKED.replace("[0, 0, 3, 2, 4]", "[0, -1, 3, 4, 4]").replace(
        "[b, 2, s, 4]", "[p, q, r, 4]"
    )
    found, _, entry = check(
        text.replace("TAKEN", TAKEN["gather"].replace("NUMBER", "1")), (2, 6, 24)
    )
    assert "Split" not in found
    assert any("does not cut the last axis alone" in skip.text for skip in entry.skips)


def test_a_transpose_on_flattened_matrices():
    text = """g (float[b, 2, s, 4] x) => (float[b, 2, 4, s] y) {
        minus = Constant<value_ints = [-1]>()
        four = Constant<value_ints = [4]>()
        s = Shape<start = 2, end = 3>(x)
        batch = Shape<start = 0, end = 2>(x)
        flat = Concat<axis = 0>(minus, s, four)
        wide = Concat<axis = 0>(batch, four, s)
        matrices = Reshape(x, flat)
        turned = Transpose<perm = [0, 2, 1]>(matrices)
        out = Reshape(turned, wide)
        y = Neg(out)
    }"""
    found, model, _ = check(text, (2, 2, 3, 4))
    assert found == {"Transpose": 1, "Neg": 1}
    assert list(model.graph[0].attributes.get_ints("perm", [])) == [0, 1, 3, 2]


@pytest.mark.parametrize(("new", "old", "raised"), [(0, 3, True), (0, 0, False)])
def test_a_transpose_of_an_unsqueezed_tensor(new, old, raised):
    text = f"""g (float[b, s, 3, 4] x) => (float[p, q, r, t] y) {{
        new = Constant<value_ints = [{new}]>()
        old = Constant<value_ints = [{old}]>()
        wide = Unsqueeze(x, new)
        turned = Transpose<perm = {[3, 1, 2, 0, 4] if raised else [2, 1, 3, 0, 4]}>(wide)
        out = Squeeze(turned, old)
        y = Neg(out)
    }}"""
    # In the second graph the axis that goes is x's own (of size 1), not the new one.
    found, _, _ = check(text, (2, 5, 3, 4) if raised else (2, 1, 3, 4))
    assert ("Unsqueeze" not in found) == raised


@pytest.mark.parametrize("depth", [1, 2])
def test_rows_taken_by_gather_nd(depth):
    text = """g (float[b, s] x, int64[n, DEPTH] ids) => (TYPE y) {
        last = Constant<value_ints = [-1]>()
        wide = Unsqueeze(ids, last)
        y = GatherND(table, wide)
    }""".replace("DEPTH", str(depth)).replace("TYPE", "float[n, m, 6]")
    model = parse(text, table=RNG.standard_normal((9, 6)).astype(np.float32))
    feeds = {"x": np.ones((1, 1), np.float32), "ids": RNG.integers(-9, 9, (4, depth))}
    before = run(model, feeds)
    apply(Canonicalize(), model)
    assert census(model) == {"Gather": 1}
    assert_same(before, run(model, feeds))


SLICES = """g (float[b, s, 12] x) => (float[b, s, K] q, float[b, s, L] k, float[b, s, M] v) {
    axis = Constant<value_ints = [AXIS]>()
    zero = Constant<value_ints = [0]>()
    first = Constant<value_ints = [FIRST]>()
    second = Constant<value_ints = [SECOND]>()
    far = Constant<value_ints = [9223372036854775807]>()
    y = Neg(x)
    v0 = Slice(y, second, far, axis)
    q0 = Slice(y, zero, first, axis)
    k0 = Slice(y, first, second, axis)
    q = Neg(q0)
    k = Exp(k0)
    v = Abs(v0)
}"""


@pytest.mark.parametrize(
    ("axis", "first", "second", "raised"),
    [(2, 6, 9, True), (-1, 4, -4, True), (-1, 4, 4, False), (1, 2, 3, False)],
)
def test_slices_that_cover_the_last_axis_become_a_split(axis, first, second, raised):
    text = SLICES.replace("AXIS", str(axis)).replace("FIRST", str(first))
    found, model, entry = check(text.replace("SECOND", str(second)), (2, 4, 12))
    assert (found["Split"], found["Slice"]) == ((1, 0) if raised else (0, found["Slice"]))
    if raised:
        split = next(node for node in model.graph if node.op_type == "Split")
        assert [value.name for value in split.outputs] == ["q0", "k0", "v0"]
        assert any("became one Split" in change.text for change in entry.changes)
