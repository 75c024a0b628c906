"""Norm gains and biases fold into their readers; refusals say why and change nothing."""

import re

import numpy as np
import pytest
from support.graphs import apply, assert_same, census, parse, run, text_of

from bitfold.models import tiny
from bitfold.passes.canonicalize.canonicalize import Canonicalize
from bitfold.passes.fold.fold_norm_gain import FoldNormGain

RNG = np.random.default_rng(0)
K, N = 24, 16


def f(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def feeds(shape=(2, 5, K)):
    return {"x": f(*shape)}


def check(model, inputs, status="applied"):
    before = run(model, inputs)
    entry = apply(FoldNormGain(), model)
    assert entry.status == status
    assert_same(before, run(model, inputs))
    return entry


def test_golden_rms_norm():
    model = parse(
        f"""g (float[b, s, {K}] x) => (float[b, s, {N}] y, float[b, s, {N}] z) {{
            n = RMSNormalization<axis = -1>(x, gain)
            y = MatMul(n, w)
            z = MatMul(n, v)
        }}""",
        gain=f(K),
        w=f(K, N),
        v=f(K, N),
    )
    gain = model.graph.initializers["gain"].const_value.numpy()
    w = model.graph.initializers["w"].const_value.numpy()
    entry = check(model, feeds())
    assert text_of(model) == [
        "n = RMSNormalization(x, bitfold.ones.24.float32)",
        "y = MatMul(n, w)",
        "z = MatMul(n, v)",
    ]
    folded = model.graph.initializers["w"].const_value.numpy()
    np.testing.assert_array_equal(folded, w * gain[:, None])
    assert [change.text for change in entry.changes] == ["gain folded into 2 readers"]


@pytest.mark.parametrize("biased", ["y = MatMul(n, w)", "m = MatMul(n, w)\ny = Add(bias, m)"])
def test_golden_layer_norm_bias(biased):
    constants = {"gain": f(K), "beta": f(K), "w": f(K, N)}
    if "Add" in biased:
        constants["bias"] = f(N)
    model = parse(
        f"""g (float[b, s, {K}] x) => (float[b, s, {N}] y) {{
            n = LayerNormalization<axis = -1>(x, gain, beta)
            {biased}
        }}""",
        **constants,
    )
    check(model, feeds())
    norm = "n = LayerNormalization(x, bitfold.ones.24.float32)"
    if "Add" in biased:
        assert text_of(model) == [norm, "m = MatMul(n, w)", "y = Add(bias, m)"]
    else:
        assert text_of(model) == [norm, "y/linear = MatMul(n, w)", "y = Add(y/linear, w/bias)"]


@pytest.mark.parametrize("turned", [0, 1])
@pytest.mark.parametrize("bias", ["", ", bias"])
def test_gemm_readers(turned, bias):
    shape = (N, K) if turned else (K, N)
    constants = {"gain": f(K), "beta": f(K), "w": f(*shape)} | ({"bias": f(N)} if bias else {})
    model = parse(
        f"""g (float[r, {K}] x) => (float[r, {N}] y) {{
            n = LayerNormalization(x, gain, beta)
            y = Gemm<transB = {turned}>(n, w{bias})
        }}""",
        **constants,
    )
    check(model, feeds((3, K)))
    assert census(model) == {"LayerNormalization": 1, "Gemm": 1}
    assert len(model.graph[0].inputs) == 2


def test_two_norms_share_one_vector_of_ones_and_a_small_shared_weight_is_copied():
    model = parse(
        f"""g (float[b, s, {K}] x) => (float[b, s, {K}] y) {{
            a = RMSNormalization(x, gain)
            c = MatMul(a, w)
            n = RMSNormalization(c, other)
            y = MatMul(n, w)
        }}""",
        gain=f(K),
        other=f(K),
        w=f(K, K),
    )
    check(model, feeds())
    norms = [node for node in model.graph if node.op_type == "RMSNormalization"]
    assert norms[0].inputs[1] is norms[1].inputs[1]
    assert model.graph[1].inputs[1] is not model.graph[3].inputs[1]


TIED = """g (int64[b, s] ids) => (float[b, s, 300] y) {
    x = Gather(table, ids)
    n = RMSNormalization(x, gain)
    head = Transpose<perm = [1, 0]>(table)
    y = MatMul(n, head)
}"""


def test_a_tied_head_is_refused():
    model = parse(TIED, table=f(300, K), gain=f(K))
    before = text_of(model)
    entry = check(model, {"ids": np.array([[1, 7]])}, "unchanged")
    assert text_of(model) == before
    assert "shares its weight table with Gather" in entry.skips[0].text
    assert "copy 7200 elements" in entry.skips[0].text


def test_the_limit_on_copies_is_an_option():
    model = parse(TIED, table=f(300, K), gain=f(K))
    inputs = {"ids": np.array([[1, 7]])}
    before = run(model, inputs)
    assert apply(FoldNormGain(copy_limit=7200), model).status == "applied"
    assert_same(before, run(model, inputs))


@pytest.mark.parametrize(
    ("body", "shape", "reason"),
    [
        ("y = Relu(n)\nm = MatMul(n, w)\nz = Abs(m)", f"[b, s, {K}]", "Relu .*reads it"),
        ("y = Identity(x)\nm = MatMul(w2, n)", f"[b, s, {K}]", "MatMul .*reads it"),
        ("y = MatMul(n, n2)", "[b, s, s]", "reads it, which is no linear op"),
    ],
)
def test_readers_that_are_no_linear_ops_are_refused(body, shape, reason):
    extra = "n2 = Transpose<perm = [0, 2, 1]>(x)" if "n2" in body else ""
    outputs = f"float{shape} y" + (f", float[b, s, {N}] z" if "z =" in body else "")
    outputs += f", float[b, 4, {K}] m" if "w2" in body else ""
    constants = {"gain": f(K)}
    if "(n, w)" in body:
        constants["w"] = f(K, N)
    if "w2" in body:
        constants["w2"] = f(4, 5)
    body = f"{extra}\nn = RMSNormalization(x, gain)\n{body}"
    model = parse(f"g (float[b, s, {K}] x) => ({outputs}) {{ {body} }}", **constants)
    before = text_of(model)
    entry = check(model, feeds(), "unchanged")
    assert text_of(model) == before
    assert len(entry.skips) == 1
    assert re.search(reason, entry.skips[0].text)


def test_an_output_of_the_model_is_refused():
    model = parse(
        f"""g (float[b, s, {K}] x) => (float[b, s, {K}] n, float[b, s, {N}] y) {{
            n = RMSNormalization(x, gain)
            y = MatMul(n, w)
        }}""",
        gain=f(K),
        w=f(K, N),
    )
    entry = check(model, feeds(), "unchanged")
    assert "output of the model" in entry.skips[0].text


@pytest.mark.parametrize("name", ["decoder", "vit", "bert"])
def test_tiny_models(name):
    model = tiny.TINY[name](2)
    inputs = tiny.sample_feeds(name, 2)
    apply(Canonicalize(), model)
    entry = check(model, inputs, "unchanged" if name == "bert" else "applied")
    assert (len(entry.changes), len(entry.skips)) == {
        "decoder": (4, 1),  # the last norm is before the tied head
        "vit": (4, 1),  # the last is before a Gather
        "bert": (0, 5),  # post-norm: the residual reads every norm
    }[name]
