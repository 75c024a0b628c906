"""Half precision becomes float32 inside, weights one at a time, and the interface stays."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from support.graphs import apply, parse, run

from bitfold.passes.canonicalize.canonicalize import Canonicalize
from bitfold.passes.core.context import Context
from bitfold.passes.core.pipeline import Pipeline
from bitfold.passes.core.spool import SPOOL_THRESHOLD
from bitfold.passes.opsets.widen_floats import HALVES, widen_floats

TEXT = """g ({kind}[b, 24] x) => ({kind}[b, 16] y, float[b, 16] z) {{
    h = MatMul(x, w)
    half = Constant<value_float = 0.5>()
    scale = CastLike(half, h)
    s = Mul(h, scale)
    r = Relu(s)
    y = Add(r, bias)
    wide = Cast<to = 1>(y)
    back = Cast<to = {to}>(wide)
    z = Cast<to = 1>(back)
}}"""
KINDS = {"float16": (10, np.float16), "bfloat16": (16, ml_dtypes.bfloat16)}


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def half_model(kind):
    to, dtype = KINDS[kind]
    weights = {"w": normal(24, 16).astype(dtype), "bias": normal(16, seed=1).astype(dtype)}
    return parse(TEXT.format(kind=kind, to=to), **weights), weights


def types(model):
    """Every type that is left inside, graph inputs and outputs aside."""
    found = {v.const_value.dtype for v in model.graph.initializers.values()}
    found |= {v.dtype for n in model.graph.all_nodes() for v in n.outputs}
    return found - {model.graph.outputs[0].dtype} | ({None} & found)


@pytest.mark.parametrize("kind", KINDS)
def test_everything_inside_is_float32(kind):
    model, weights = half_model(kind)
    dtype = KINDS[kind][1]
    entry = apply(Canonicalize(), model)
    assert not types(model) & set(HALVES)
    assert [str(v.dtype).lower() for v in model.graph.inputs] == [kind]
    assert [str(v.dtype).lower() for v in model.graph.outputs] == [kind, "float"]
    assert any(note.startswith(f"{kind.upper()} widened to FLOAT") for note in entry.notes)
    x = normal(3, 24, seed=2).astype(dtype)
    found = run(model, {"x": x})
    wide = {name: array.astype(np.float32) for name, array in weights.items()}
    exact = np.maximum(x.astype(np.float32) @ wide["w"] * 0.5, 0) + wide["bias"]
    np.testing.assert_allclose(found["z"], exact, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found["y"].astype(dtype), exact.astype(dtype))


def test_float32_models_are_left_alone():
    model = parse("g (float[b, 4] x) => (float[b, 4] y) { y = Relu(x) }")
    with Context() as context:
        assert not widen_floats(model, context.tensor)


@pytest.mark.parametrize("kind", KINDS)
def test_the_pipeline_checks_it(kind):
    """ORT has no bfloat16 kernels: then the checks say what they compare with instead."""
    model, _ = half_model(kind)
    result, report = Pipeline("canonicalize", verify="full", strict=True).run(model)
    assert report.passes[0].status == "applied"
    assert ["float32" in note for note in report.notes] == [True] * (kind == "bfloat16")
    assert report.total is not None
    assert report.total.cosine > 0.9999
    assert str(result.graph.outputs[0].dtype).lower() == kind


def test_weights_are_widened_when_they_are_read_and_live_on_disk():
    rows = SPOOL_THRESHOLD // 64
    reads = []

    def read(name):
        def tensor():
            reads.append(name)
            return ir.tensor(np.full((rows, 64), 1.5, np.float16), name=name)

        return tensor

    text = f"g (float16[b, {rows}] x) => (float16[b, 64] y) {{ a = MatMul(x, u)\n"
    text += "b = MatMul(x, v)\n y = Add(a, b) }"
    model = parse(text, u=np.zeros((rows, 64), np.float16), v=np.zeros((rows, 64), np.float16))
    for name in ("u", "v"):
        lazy = ir.LazyTensor(read(name), ir.DataType.FLOAT16, ir.Shape((rows, 64)), name=name)
        model.graph.initializers[name].const_value = lazy
    with Context() as context:
        assert widen_floats(model, context.tensor) == {"FLOAT16": 2}
        assert not reads
        tensor = model.graph.initializers["u"].const_value
        assert tensor.dtype == ir.DataType.FLOAT
        assert tensor.shape == (rows, 64)
        array = tensor.numpy()
        assert reads == ["u"]
        assert array.dtype == np.float32
        assert (array[::100] == 1.5).all()
        assert isinstance(array, np.memmap) or isinstance(array.base, np.memmap)
        tensor.numpy()
        assert reads == ["u"]


def test_subgraphs_and_what_they_capture():
    text = """g (bool c, float16[4, 8] x) => (float16[4, 8] y) {
        y = If (c) <
            then_branch = t () => (float16[4, 8] a) { m = MatMul(x, w)
                a = Relu(m) },
            else_branch = e () => (float16[4, 8] b) { k = Constant<value_float = 2.0>()
                h = CastLike(k, x)
                b = Mul(x, h) }
        >
    }"""
    w = normal(8, 8).astype(np.float16)
    model = parse(text, w=w)
    apply(Canonicalize(), model)
    x = normal(4, 8, seed=3).astype(np.float16)
    wide = x.astype(np.float32)
    taken = run(model, {"c": np.array(True), "x": x})["y"]
    np.testing.assert_array_equal(
        taken, np.maximum(wide @ w.astype(np.float32), 0).astype(np.float16)
    )
    np.testing.assert_array_equal(run(model, {"c": np.array(False), "x": x})["y"], x * 2)
    inner = [v.dtype for n in model.graph.all_nodes() for v in n.outputs]
    assert inner.count(ir.DataType.FLOAT16) == 1  # the Cast in front of the output


def test_scales_of_native_operators_stay():
    """Their kernels read float16 scales."""
    model = parse("g (float[b, 16] x) => (float[b, 16] y) { y = Relu(x) }")
    scales = ir.val("s", const_value=ir.tensor(np.ones((1, 1, 16), np.float16), name="s"))
    model.graph.register_initializer(scales)
    node = ir.node("LowBitMatMul", [model.graph.inputs[0], None, scales], domain="bitfold")
    model.graph.append(node)
    with Context() as context:
        assert not widen_floats(model, context.tensor)
    assert scales.const_value.dtype == ir.DataType.FLOAT16
