"""The three targets give the quantized model's answers, or say why they cannot."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from support.graphs import apply, assert_same, census, parse, run

from bitfold.models import tiny
from bitfold.passes.canonicalize.canonicalize import Canonicalize
from bitfold.passes.core.context import Context
from bitfold.passes.fuse.fuse_swiglu import FuseSwiGLU
from bitfold.passes.fuse.merge_siblings import MergeSiblings
from bitfold.passes.lower.lower import Lower
from bitfold.passes.quantize.quantize import Quantize
from bitfold.runtime.errors import UnsupportedError
from bitfold.runtime.execution import open_session

RNG = np.random.default_rng(5)
STOCK = ("ort", "portable")
WEIGHTS = ("int2", "int3", "int4", "int5", "int8", "ternary")


def f(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def matmul(n, k, bias=False):
    """x [b, m, k] times a weight [k, n], and perhaps a bias."""
    text = f"g (float[b, m, {k}] x) => (float[b, m, {n}] y) {{ "
    if bias:
        model = parse(text + "t = MatMul(x, w) y = Add(t, bias) }", w=f(k, n), bias=f(n))
    else:
        model = parse(text + "y = MatMul(x, w) }", w=f(k, n))
    name_nodes(model)
    return model


def name_nodes(model):
    for number, node in enumerate(model.graph):
        node.name = node.name or f"node{number}"


def before_and_after(model, quantize, lower, feeds):
    """Outputs of the neutral form and of the lowered one, both as ORT runs them at their best."""
    apply(quantize, model)
    neutral = run(model, feeds)
    entry = apply(lower, model)
    onnx.checker.check_model(ir.to_proto(model), full_check=lower.target == "portable")
    return neutral, run(model, feeds), entry


def domains(model):
    return {node.domain for node in model.graph.all_nodes()}


@pytest.mark.parametrize("target", STOCK)
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("acts", ["int8", "none"])
@pytest.mark.parametrize(
    ("n", "k", "group"),
    [
        (40, 64, 32),
        (33, 96, 32),  # three groups: zero points of 4 bits do not fill their last byte
        (40, 100, 32),  # a short last group
        (40, 160, 64),  # and one of half the size
        (37, 40, 64),  # one group, shorter than its size
        (64, 128, 128),
    ],
)
def test_matmul(target, weights, acts, n, k, group):
    quantize = Quantize(weights=weights, group=group, acts=acts, target=target)
    model = matmul(n, k, bias=group == 64)
    x = f(2, 5, k)
    x[1, 2] = 0  # a row without a scale
    neutral, found, entry = before_and_after(model, quantize, Lower(target=target), {"x": x})
    assert_same(neutral, found, 1e-5)
    assert len(entry.changes) == 1
    assert domains(model) == {"" if target == "portable" else "com.microsoft"}


@pytest.mark.parametrize("acts", ["int1", "int2", "int3", "int4"])
@pytest.mark.parametrize(("k", "group"), [(64, 32), (100, 32), (40, 64), (96, 0)])
def test_inputs_of_few_bits_are_written_out(acts, k, group):
    quantize = Quantize(weights="int4", group=group, acts=acts)
    x = f(2, 5, k)
    x[1, 2] = 0
    x[0, 0, ::3] = -0.0
    lower = Lower(target="portable")
    neutral, found, _ = before_and_after(matmul(40, k), quantize, lower, {"x": x})
    assert_same(neutral, found, 1e-5)
    with pytest.raises(UnsupportedError, match=f"{acts} inputs: MatMulNBits rounds to int8"):
        before_and_after(matmul(40, k), quantize, Lower(target="ort"), {"x": x})
    emulated = Lower(target="ort", emulate=True)
    neutral, found, entry = before_and_after(matmul(40, k), quantize, emulated, {"x": x})
    assert_same(neutral, found, 1e-5)
    assert "emulated" in entry.changes[0].text


@pytest.mark.parametrize("weights", ["int4", "int8", "int2"])
def test_one_row_takes_another_kernel_of_ort(weights):
    model = matmul(48, 192)
    quantize = Quantize(weights=weights, group=32, target="ort")
    neutral, found, _ = before_and_after(model, quantize, Lower(target="ort"), {"x": f(1, 1, 192)})
    assert_same(neutral, found, 1e-5)


@pytest.mark.parametrize("target", STOCK)
def test_gemm(target):
    model = parse(
        "g (float[m, 64] x) => (float[m, 48] y) { y = Gemm<transB = 1>(x, w, bias) }",
        w=f(48, 64),
        bias=f(48),
    )
    name_nodes(model)
    neutral, found, _ = before_and_after(
        model, Quantize(target=target), Lower(target=target), {"x": f(7, 64)}
    )
    assert_same(neutral, found, 1e-5)


def tied():
    """An embedding [50, 100] that is also the head."""
    model = parse(
        """g (int64[b, s] ids) => (float[b, s, 50] y) {
            x = Gather(table, ids)
            h = Tanh(x)
            turned = Transpose<perm = [1, 0]>(table)
            y = MatMul(h, turned)
        }""",
        table=f(50, 100),
    )
    name_nodes(model)
    return model


@pytest.mark.parametrize("target", STOCK)
@pytest.mark.parametrize("weights", ["int2", "int4", "int8"])
def test_an_embedding_and_its_head_are_stored_once(target, weights):
    model = tied()
    ids = RNG.integers(0, 50, (2, 7))
    ids[0, 0] = -1  # counts from the end
    quantize = Quantize(weights=weights, group=32, target=target)
    neutral, found, _ = before_and_after(model, quantize, Lower(target=target), {"ids": ids})
    assert_same(neutral, found, 1e-5)
    codes = [v for v in model.graph.initializers.values() if v.const_value.size >= 1000]
    assert len(codes) == 1
    assert codes[0].dtype != ir.DataType.FLOAT
    assert len(list(codes[0].uses())) == 2


@pytest.mark.parametrize("target", STOCK)
@pytest.mark.parametrize(
    ("shape", "attributes"),
    [
        ((24, 64, 1, 1), "strides = [1, 1]"),
        ((24, 48, 3, 3), "pads = [1, 1, 1, 1], strides = [2, 2]"),
        ((32, 16, 3, 3), "group = 2, pads = [1, 1, 1, 1]"),
        ((128, 1, 3, 3), "group = 128, pads = [1, 1, 1, 1]"),
        ((32, 20, 5, 1), "strides = [2, 1]"),
    ],
)
@pytest.mark.parametrize("weights", ["int2", "int4", "int8"])
def test_conv(target, shape, attributes, weights):
    n, cg = shape[:2]
    channels = cg * (
        int(attributes.split("group = ")[1].split(",")[0]) if "group" in attributes else 1
    )
    model = parse(
        f"""g (float[b, {channels}, h, v] x) => (float[b, {n}, p, q] y) {{
            y = Conv<{attributes}>(x, w, bias)
        }}""",
        w=f(*shape),
        bias=f(n),
    )
    name_nodes(model)
    quantize = Quantize(weights=weights, group=16, target=target)
    neutral, found, entry = before_and_after(
        model, quantize, Lower(target=target), {"x": f(2, channels, 9, 8)}
    )
    assert_same(neutral, found, 1e-5)
    assert entry.changes
    assert census(model)["Transpose"] == 0 or target == "ort"


@pytest.mark.parametrize("target", STOCK)
def test_float_inputs_stay_float_though_ort_would_round_them(target):
    """ORT makes DequantizeLinear and MatMul a MatMulNBits that rounds inputs, in one layout."""
    model = matmul(64, 256)
    x = f(1, 8, 256)
    neutral, found, _ = before_and_after(
        model, Quantize(acts="none", target=target), Lower(target=target), {"x": x}
    )
    assert_same(neutral, found, 1e-6)


def test_accuracy_level_follows_the_scheme():
    for acts, level in (("int8", 4), ("none", 1)):
        model = matmul(64, 256)
        apply(Quantize(acts=acts, target="ort"), model)
        apply(Lower(target="ort"), model)
        (node,) = [each for each in model.graph if each.op_type == "MatMulNBits"]
        assert node.attributes.get_int("accuracy_level", 0) == level


@pytest.mark.parametrize(
    ("quantize", "reason"),
    [
        (Quantize(group=0), "each row of 320 inputs"),
        (Quantize(group=48), "each 48 inputs"),
        (Quantize(act_granularity="token"), "each row of 320 inputs"),
        (Quantize(weights="int2", group=16), "at 2 bits MatMulNBits has one for each 32, 64, 128"),
    ],
)
def test_a_scheme_that_ort_has_no_operator_for(quantize, reason):
    model = matmul(32, 320)
    apply(quantize, model)
    feeds = {"x": f(2, 3, 320)}
    neutral = run(model, feeds)
    with pytest.raises(UnsupportedError, match="1 of 1 sites") as caught:
        apply(Lower(target="ort"), model)
    assert reason in str(caught.value)
    assert "emulate=true" in caught.value.hint
    entry = apply(Lower(target="ort", emulate=True), model)
    assert "emulated" in entry.changes[0].text
    assert domains(model) == {""}
    assert_same(neutral, run(model, feeds), 1e-5)


@pytest.mark.parametrize("group", [0, 48, 16])
def test_float_inputs_take_any_group(group):
    model = matmul(32, 320)
    neutral, found, _ = before_and_after(
        model,
        Quantize(weights="int2", group=group, acts="none"),
        Lower(target="ort"),
        {"x": f(2, 3, 320)},
    )
    assert census(model)["MatMulNBits"] == 1
    assert_same(neutral, found, 1e-5)


@pytest.mark.parametrize("scales", ["f16", "f32"])
def test_portable_keeps_the_type_of_the_scales(scales):
    model = matmul(32, 128)
    neutral, found, _ = before_and_after(
        model, Quantize(scales=scales), Lower(target="portable"), {"x": f(2, 3, 128)}
    )
    assert_same(neutral, found, 1e-6)
    types = {v.dtype for v in model.graph.initializers.values() if "scales" in v.name}
    assert types == {ir.DataType.FLOAT16 if scales == "f16" else ir.DataType.FLOAT}


def test_the_newest_opset_only_where_its_type_is_needed():
    for weights, version in (("int2", 25), ("int3", 23), ("int8", 23)):
        model = matmul(32, 128)
        apply(Quantize(weights=weights), model)
        apply(Lower(target="portable"), model)
        assert model.opset_imports[""] == version


def test_an_old_opset_is_refused():
    model = matmul(32, 128)
    model.graph.opset_imports[""] = 17
    apply(Quantize(), model)
    with pytest.raises(UnsupportedError, match=r"expected 21 or newer.*found 17") as caught:
        apply(Lower(target="portable"), model)
    assert "put it before lower, or see in the report why it was undone" in caught.value.hint


def test_stock_sites_of_a_native_model():
    model = parse(
        """g (float[b, 64] x) => (float[b, 64] y) {
            t = MatMul(x, w1)
            y = MatMul(t, w2)
        }""",
        w1=f(64, 64),
        w2=f(64, 64),
    )
    name_nodes(model)
    feeds = {"x": f(3, 64)}
    neutral, found, entry = before_and_after(model, Quantize(), Lower(stock=("w1*",)), feeds)
    assert_same(neutral, found, 1e-5)
    assert (census(model)["MatMulNBits"], census(model)["LowBitMatMul"]) == (1, 1)
    assert len(entry.changes) == 2


@pytest.mark.parametrize("target", STOCK)
def test_swiglu_becomes_standard_operators(target):
    model = parse(
        """g (float[b, 64] x) => (float[b, 48] y) {
            both = MatMul(x, w)
            gate, up = Split<axis = -1, num_outputs = 2>(both)
            s = Sigmoid(gate)
            silu = Mul(gate, s)
            y = Mul(silu, up)
        }""",
        w=f(64, 96),
    )
    name_nodes(model)
    feeds = {"x": f(3, 64)}
    apply(FuseSwiGLU(), model)
    assert census(model)["SwiGLU"] == 1
    neutral, found, _ = before_and_after(model, Quantize(), Lower(target=target), feeds)
    assert_same(neutral, found, 1e-5)
    assert "bitfold" not in domains(model)
    assert not model.functions


@pytest.mark.parametrize("name", list(tiny.TINY))
@pytest.mark.parametrize("target", STOCK)
@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_tiny_models_agree_piece_by_piece(name, target, weights):
    """Rounding amplifies within a model, so each site is compared on the neutral form's inputs."""
    from bitfold.passes.core.local_check import local_difference

    model = tiny.TINY[name](1)
    feeds = tiny.sample_feeds(name, 1)
    for item in (Canonicalize(), MergeSiblings(), FuseSwiGLU(), Quantize(weights=weights)):
        apply(item, model)
    name_nodes(model)
    with Context() as context:
        lowered = model.clone()
        assert Lower(target=target).run(lowered, context)
    assert {"bitfold"}.isdisjoint(domains(lowered))
    if target == "portable":
        assert domains(lowered) == {""}
        onnx.checker.check_model(ir.to_proto(lowered), full_check=True)
    assert local_difference(model, lowered, feeds) is None
    added = set(lowered.graph.initializers) - set(model.graph.initializers)
    floats = {n for n in added if lowered.graph.initializers[n].dtype == ir.DataType.FLOAT}
    assert all("scales" in n or "bitfold." in n for n in floats)
    codes = {n for n in model.graph.initializers if n.endswith(".codes")}
    assert codes
    assert codes.isdisjoint(lowered.graph.initializers)
    open_session(lowered, op_library=False).run(feeds)


@pytest.mark.parametrize(
    ("n", "c", "attributes", "pixel", "products"),
    [
        (128, 96, "strides = [1, 1]", False, 1),
        (128, 100, "strides = [1, 1]", False, 1),  # one block of 128 for 100 channels
        (128, 96, "strides = [2, 2]", False, 0),
        (128, 96, "pads = [1, 0, 0, 0]", False, 0),
        (32, 32, "strides = [1, 1]", False, 0),  # too small to turn images for
        (32, 32, "strides = [1, 1]", True, 1),
    ],
)
@pytest.mark.parametrize("weights", ["int4", "int8"])
def test_pointwise_convolutions_are_matmuls_in_ort(n, c, attributes, pixel, products, weights):
    model = parse(
        f"""g (float[b, {c}, h, v] x) => (float[b, {n}, p, q] y) {{
            y = Conv<{attributes}>(x, w, bias)
        }}""",
        w=f(n, c, 1, 1),
        bias=f(n),
    )
    name_nodes(model)
    quantize = Quantize(
        weights=weights, group=64, target="ort", conv_acts="pixel" if pixel else "auto"
    )
    x = f(2, c, 7, 6)
    x[0, :, 2, 3] = 0
    neutral, found, _ = before_and_after(model, quantize, Lower(target="ort"), {"x": x})
    assert_same(neutral, found, 1e-5)
    assert census(model)["MatMulNBits"] == products
    assert census(model)["Conv"] == 1 - products


@pytest.mark.parametrize("group", [16, 48, 64])
def test_no_rows_give_no_rows(group):
    # As many as a decoder's new frames after its first step.
    model = matmul(8, 48, bias=True)
    apply(Quantize(weights="int8", group=group, target="portable"), model)
    apply(Lower(target="portable"), model)
    for rows in (0, 3):
        assert run(model, {"x": f(2, rows, 48)})["y"].shape == (2, rows, 8)


ROI = """g (float[1, 16, 9, 64] x, float[k, 4] boxes, int64[k] at, int64[n] ids)
    => (float[k, 8, 2, 2] y, float[n, 64] e) {
    m = MatMul(x, w)
    c = Conv(m, kernel)
    y = RoiAlign<output_height = 2, output_width = 2>(c, boxes, at)
    e = Gather(table, ids)
}"""
ROI_FEEDS = {
    "boxes": np.array([[0, 0, 5, 6], [1, 2, 8, 8]], np.float32),
    "at": np.zeros(2, np.int64),
    "ids": np.array([3, 0, 3], np.int64),
}


@pytest.mark.parametrize("target", STOCK)
@pytest.mark.parametrize("weights", ["int2", "int4", "int8"])
def test_graphs_that_stay_at_an_older_version(target, weights):
    """ONNX Runtime runs RoiAlign up to opset 21 only: weights are stored as 21 has them."""
    shapes = {"w": f(64, 64), "kernel": f(8, 16, 3, 3), "table": f(20, 64)}
    model = parse(ROI, opset=16, **shapes)
    apply(Canonicalize(), model)
    name_nodes(model)
    feeds = {"x": f(1, 16, 9, 64), **ROI_FEEDS}
    neutral, found, entry = before_and_after(
        model, Quantize(weights=weights, group=32, target=target), Lower(target=target), feeds
    )
    assert_same(neutral, found, 1e-5)
    assert len(entry.changes) == 3
    assert model.opset_imports[""] == 21


@pytest.mark.parametrize("target", ["native", *STOCK])
@pytest.mark.parametrize("acts", ["int8", "none"])
@pytest.mark.parametrize("group", [0, 32])
def test_a_vector_times_a_weight_gives_a_vector(target, acts, group):
    text = "g (float[80] x) => (float[48] y) { t = MatMul(x, w) y = Add(t, b) }"
    model = parse(text, w=f(80, 48), b=f(48))
    name_nodes(model)
    quantize = Quantize(weights="int4", group=group, acts=acts, target=target)
    neutral, lowered, _ = before_and_after(model, quantize, Lower(target=target), {"x": f(80)})
    assert lowered["y"].shape == (48,)
    np.testing.assert_allclose(lowered["y"], neutral["y"], rtol=0, atol=2e-2)
