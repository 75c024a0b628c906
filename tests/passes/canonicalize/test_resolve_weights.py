"""Weights behind nodes that only arrange them become plain ones, one at a time."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from support.graphs import apply, assert_same, census, parse, run

from bitfold.passes.analysis.sites import find_sites
from bitfold.passes.canonicalize.canonicalize import Canonicalize
from bitfold.passes.canonicalize.resolve_weights import resolve_weights
from bitfold.passes.core.context import Context
from bitfold.passes.core.report import PassEntry

ARRANGING = {"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Cast", "Identity"}


def normal(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def ints(*values):
    return np.array(values, np.int64)


CHAINS = {
    "identity": ("w = Identity(s)", normal(120, 90), {}),
    "transpose": ("w = Transpose<perm = [1, 0]>(s)", normal(90, 120), {}),
    "reshape": ("w = Reshape(s, to)", normal(10800), {"to": ints(120, -1)}),
    "reshape keeps": ("w = Reshape(s, to)", normal(120, 9, 10), {"to": ints(0, -1)}),
    "squeeze": ("w = Squeeze(s, at)", normal(1, 120, 90), {"at": ints(0)}),
    "squeeze all": ("w = Squeeze(s)", normal(1, 120, 1, 90), {}),
    "flatten": ("w = Flatten<axis = 1>(s)", normal(120, 10, 9), {}),
    "cast": ("w = Cast<to = 1>(s)", normal(120, 90, dtype=np.float64), {}),
    "half": ("w = Cast<to = 1>(s)", normal(120, 90, dtype=np.float16), {}),
    "long": (
        """a = Identity(s)
           b = Cast<to = 1>(a)
           c = Reshape(b, to)
           d = Transpose<perm = [2, 0, 1]>(c)
           e = Unsqueeze(d, at)
           f = Squeeze(e, at)
           g = Transpose<perm = [1, 2, 0]>(f)
           h = Flatten<axis = 1>(g)
           w = Identity(h)""",
        normal(10800, dtype=np.float16),
        {"to": ints(120, 10, 9), "at": ints(1)},
    ),
}


@pytest.mark.parametrize("name", CHAINS)
def test_the_weight_becomes_a_plain_site(name):
    lines, source, constants = CHAINS[name]
    text = f"g (float[b, 120] x) => (float[b, 90] y) {{ {lines}\n y = MatMul(x, w) }}"
    model = parse(text, s=source, **constants)
    x = normal(3, 120, seed=1)
    before = run(model, {"x": x})
    entry = apply(Canonicalize(), model)
    assert not set(census(model)) & (ARRANGING - {"Transpose"})
    (site,) = find_sites(model)
    assert site.shape == (90, 120)
    assert site.source.const_value.size > Canonicalize().fold_limit
    assert_same(before, run(model, {"x": x}), 1e-6)
    assert_same(before, {"y": x @ site.weight().T}, 1e-5)
    again = apply(Canonicalize(), model)
    assert again.status == "unchanged", again.changes
    assert entry.status == "applied"


def test_weights_of_convolutions_and_norms():
    text = """g (float[2, 8, 6, 6] x) => (float[2, 40, 6, 6] y) {
        w = Transpose<perm = [3, 2, 0, 1]>(s)
        y = Conv<pads = [1, 1, 1, 1]>(x, w)
    }"""
    model = parse(text, s=normal(3, 3, 8, 40))
    x = normal(2, 8, 6, 6, seed=1)
    before = run(model, {"x": x})
    apply(Canonicalize(fold_limit=16), model)
    assert dict(census(model)) == {"Conv": 1}
    assert_same(before, run(model, {"x": x}))


def test_a_shared_source_serves_all_its_readers():
    text = """g (float[b, 120] x, int64[n] i) => (float[b, 90] y, float[n, 120] z) {
        w = Transpose<perm = [1, 0]>(s)
        y = MatMul(x, w)
        z = Gather(s, i)
    }"""
    source = normal(90, 120)
    model = parse(text, s=source)
    tensor = model.graph.initializers["s"].const_value
    apply(Canonicalize(), model)
    assert model.graph.initializers["s"].const_value is tensor
    assert len(model.graph.initializers) == 1
    assert len(list(find_sites(model))) == 2


def test_weights_in_files_are_referred_to_and_not_read(tmp_path):
    text = "g (float[b, 120] x) => (float[b, 90] y) { w = Reshape(s, to)\n y = MatMul(x, w) }"
    model = parse(text, s=normal(10800), to=ints(120, 90))
    ir.save(model, tmp_path / "m.onnx", external_data="m.data", size_threshold_bytes=1024)
    model = ir.load(tmp_path / "m.onnx")
    apply(Canonicalize(), model)
    (value,) = model.graph.initializers.values()
    assert isinstance(value.const_value, ir.ExternalTensor)
    assert value.const_value.path == str(tmp_path / "m.data")
    np.testing.assert_array_equal(value.const_value.numpy().reshape(-1), normal(10800))


def test_nothing_is_computed_before_it_is_read(monkeypatch):
    text = """g (float[b, 300] x) => (float[b, 400] y) {
        t = Transpose<perm = [2, 0, 1]>(s)
        w = Reshape(t, to)
        y = MatMul(x, w)
    }"""
    model = parse(text, s=normal(20, 400, 15), to=ints(300, 400))
    computed = []
    with Context() as context:
        tensor = context.tensor
        monkeypatch.setattr(
            context, "tensor", lambda array, name: computed.append(name) or tensor(array, name)
        )
        assert resolve_weights(model, context, PassEntry("p", {}, "exact"))
        assert not computed
        (site,) = find_sites(model)
        first, second = site.weight(), site.weight()
        assert computed == ["t"]
        np.testing.assert_array_equal(first, second)
    expected = normal(20, 400, 15).transpose(2, 0, 1).reshape(300, 400)
    np.testing.assert_array_equal(first, expected.T)


def test_in_subgraphs_too():
    text = """g (bool c, float[4, 120] x) => (float[4, 90] y) {
        y = If (c) <
            then_branch = t () => (float[4, 90] a) { w = Reshape(s, to)
                a = MatMul(x, w) },
            else_branch = e () => (float[4, 90] b) { w = Transpose<perm = [1, 0]>(r)
                m = MatMul(x, w)
                b = Relu(m) }
        >
    }"""
    model = parse(text, s=normal(10800), r=normal(90, 120, seed=2), to=ints(120, 90))
    x = normal(4, 120, seed=1)
    fed = [{"c": np.array(flag), "x": x} for flag in (True, False)]
    before = [run(model, feeds) for feeds in fed]
    apply(Canonicalize(), model)
    assert len(list(find_sites(model))) == 2
    for expected, feeds in zip(before, fed, strict=True):
        assert_same(expected, run(model, feeds))


def test_integer_codes_are_somebody_elses():
    text = """g (float[b, 120] x) => (float[b, 90] y) {
        f = Cast<to = 1>(s)
        w = Mul(f, scale)
        y = MatMul(x, w)
    }"""
    codes = np.random.default_rng(0).integers(-127, 127, (120, 90)).astype(np.int8)
    model = parse(text, s=codes, scale=np.float32(0.01))
    apply(Canonicalize(), model)
    assert census(model) == {"Cast": 1, "Mul": 1, "MatMul": 1}
    assert model.graph.initializers["s"].const_value.dtype == ir.DataType.INT8


def test_a_shape_that_does_not_fit_is_left_for_the_check():
    model = parse("g (float[b, 4] x) => (float[b, 4] y) { y = Add(x, b0) }", b0=normal(4))
    value = model.graph.initializers["b0"]
    node = ir.node("Reshape", [value, None])
    model.graph.insert_before(model.graph[0], node)
    model.graph[-1].replace_input_with(1, node.outputs[0])
    for wrong in (ints(3), ints(-1, 3), ints(-2, 2), ints(0, 0, 0)):
        shape = ir.val("to", const_value=ir.tensor(wrong, name="to"))
        model.graph.initializers.pop("to", None)
        model.graph.register_initializer(shape)
        node.replace_input_with(1, shape)
        with Context() as context:
            assert not resolve_weights(model, context, PassEntry("p", {}, "exact"))
