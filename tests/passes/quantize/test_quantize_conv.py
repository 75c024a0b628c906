"""Quantized convolutions run in stock ONNX Runtime, against NumPy's view of the scheme."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bitfold.passes.analysis.conv_shape import ConvShape
from bitfold.passes.analysis.sites import find_sites
from bitfold.passes.core.context import Context
from bitfold.passes.core.invariants import check_invariants
from bitfold.passes.quantize.conv_scheme import conv_scheme, nearest_group
from bitfold.passes.quantize.quantize import Quantize
from bitfold.runtime.execution import open_session
from bitfold.runtime.formats.scheme import QuantScheme, WeightScheme


def conv_model(weight: np.ndarray, groups: int = 1, attributes: str = "") -> ir.Model:
    spatial = ", ".join(f"s{i}" for i in range(weight.ndim - 2))
    text = (
        f"g (float[n, {weight.shape[1] * groups}, {spatial}] x) => (float[n, m, {spatial}] y) "
        f"{{ y = Conv <group = {groups} {attributes}> (x, w) }}"
    )
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 23]> {text}')
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    return ir.from_proto(model)


def quantized(model: ir.Model, **options) -> Context:
    with Context() as context:
        Quantize(**options).run(model, context)
    check_invariants(model, node_names=False)
    return context


def rounded_pixels(x: np.ndarray, group: int) -> np.ndarray:
    """x [n, C, ...] with each pixel's runs of ``group`` channels at 127 levels each side."""
    runs = x.reshape(x.shape[0], -1, group, *x.shape[2:])
    scale = np.abs(runs).max(2, keepdims=True) / np.float32(127)
    safe = np.where(scale > 0, scale, 1)
    return (np.rint(runs / safe) * scale).reshape(x.shape)


@settings(max_examples=25, deadline=None)
@given(
    cg=st.sampled_from([1, 2, 3, 16, 24, 32, 64]),
    groups=st.sampled_from([1, 2, 4]),
    kernel=st.sampled_from([(1,), (3,), (1, 1), (3, 3), (2, 5)]),
    weights=st.sampled_from(["int8", "int4", "ternary"]),
    group=st.sampled_from([0, 16, 32]),
)
def test_the_neutral_form_is_the_scheme(cg, groups, kernel, weights, group):
    rng = np.random.default_rng(cg * groups)
    n = groups * max(1, -(-1024 // (cg * int(np.prod(kernel)) * groups)))
    weight = rng.normal(size=(n, cg, *kernel)).astype(np.float32)
    x = rng.normal(size=(2, cg * groups, *(5 + k for k in kernel))).astype(np.float32)
    model = conv_model(weight, groups)
    context = quantized(model, weights=weights, group=group, conv_group=0)
    assume(context.entry.sites)  # padding makes some no smaller
    (record,) = context.entry.sites
    assert (record.kind, record.rows, record.columns) == ("conv", n, weight[0].size)
    found = open_session(model, op_library=False).run({"x": x})["y"]

    (site,) = find_sites(model)
    shape = site.conv
    run = nearest_group(group, cg) or cg if group else cg
    dequantize = site.quantized
    codes, scales = (dequantize.inputs[i].const_value.numpy() for i in (0, 1))
    bits = dequantize.attributes.get_int("bits", 0)
    assert bits == (8 if cg == 1 else {"int8": 8, "int4": 4, "ternary": 2}[weights])
    assert scales.shape == (n, 1 if cg == 1 else shape.k // run)
    columns = np.float32(codes) - (1 << (bits - 1))
    if dequantize.inputs[3] is not None:
        columns = dequantize.inputs[3].const_value.numpy()[codes].astype(np.float32)
    width = shape.k // scales.shape[1]
    if dequantize.inputs[2] is not None:
        columns -= np.repeat(dequantize.inputs[2].const_value.numpy(), width, 1)
    columns *= np.repeat(scales.astype(np.float32), width, 1)
    plain = conv_model(np.ascontiguousarray(shape.kernels(columns)), groups)
    expected = open_session(plain).run({"x": x if cg == 1 else rounded_pixels(x, run)})["y"]
    # A value halfway between two levels may be rounded to either.
    assert np.median(np.abs(found - expected)) < 1e-5 * np.abs(expected).max()
    assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max()


def test_eight_bits_lose_little():
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(48, 32, 3, 3)).astype(np.float32)
    x = rng.normal(size=(1, 32, 12, 12)).astype(np.float32)
    model = conv_model(weight, 1, ", pads = [1, 1, 1, 1], strides = [2, 2]")
    expected = open_session(model).run({"x": x})["y"]
    quantized(model, weights="int8")
    found = open_session(model, op_library=False).run({"x": x})["y"]
    assert found.shape == expected.shape
    assert np.square(found - expected).mean() < 1e-4 * expected.var()


def test_two_convolutions_share_weight_and_rounding():
    weight = np.random.default_rng(0).normal(size=(32, 32, 3, 3)).astype(np.float32)
    model = conv_model(weight)
    first = model.graph.node(0)
    second = ir.node("Conv", list(first.inputs), {"dilations": [2, 2]}, name="second")
    second.outputs[0].name, second.outputs[0].type = "z", first.outputs[0].type
    model.graph.append(second)
    model.graph.outputs.append(second.outputs[0])
    context = quantized(model, weights="int8")
    assert [record.bytes_after > 0 for record in context.entry.sites] == [True, False]
    ops = [node.op_type for node in model.graph]
    assert ops.count("DequantizeWeight") == ops.count("QuantizeActivation") == 1


RECIPE = QuantScheme(WeightScheme("int4", 32, False))


@pytest.mark.parametrize(
    ("acts", "target", "kernel", "expected"),
    [
        ("auto", "native", (3, 3), "int8"),
        ("auto", "portable", (3, 3), "int8"),
        ("auto", "ort", (3, 3), "none"),
        ("auto", "ort", (1, 1), "int8"),
        ("pixel", "ort", (3, 3), "int8"),
        ("none", "native", (1, 1), "none"),
    ],
)
def test_inputs_are_rounded_where_the_target_runs_it(acts, target, kernel, expected):
    conv = ConvShape(128, 64, kernel, 1)
    assert conv_scheme(RECIPE, conv, acts, target).acts == expected
    assert conv_scheme(QuantScheme(RECIPE.weight, "int2"), conv, acts, target).acts == expected
    weight_only = QuantScheme(RECIPE.weight, "none")
    assert conv_scheme(weight_only, conv, acts, target).acts == "none"


@pytest.mark.parametrize(("cg", "group"), [(64, 32), (80, 16), (240, 48), (24, 0), (3, 0)])
def test_groups_divide_the_channels_of_a_tap(cg, group):
    scheme = conv_scheme(RECIPE, ConvShape(64, cg, (3, 3), 1), "auto", "native")
    assert scheme.weight.group == group


def test_a_depthwise_kernel_keeps_eight_bits_and_float_inputs():
    scheme = conv_scheme(RECIPE, ConvShape(64, 1, (3, 3), 64), "pixel", "native")
    assert (scheme.weight.format, scheme.weight.group, scheme.acts) == ("int8", 0, "none")


def test_what_reads_one_pixel_keeps_float_inputs():
    weight = np.random.default_rng(0).normal(size=(32, 32, 1, 1)).astype(np.float32)
    body = "p = GlobalAveragePool(x)  a = Conv(p, w)  r = Relu(a)  b = Conv(r, w)  y = Mul(x, b)"
    text = f"g (float[n, 32, h, w] x) => (float[n, 32, h, w] y) {{ {body} }}"
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 23]> {text}')
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
    quantized(model, weights="int8")
    assert "QuantizeActivation" not in {node.op_type for node in model.graph}
    assert "DequantizeWeight" in {node.op_type for node in model.graph}


@pytest.mark.parametrize(
    ("wanted", "largest", "expected"), [(64, 32, 32), (64, 0, 64), (16, 32, 16), (0, 32, 0)]
)
def test_groups_of_convolutions_have_a_limit_of_their_own(wanted, largest, expected):
    recipe = QuantScheme(WeightScheme("int8", wanted))
    scheme = conv_scheme(recipe, ConvShape(64, 128, (1, 1), 1), "auto", "native", largest)
    assert scheme.weight.group == expected
