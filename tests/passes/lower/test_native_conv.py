"""Lowered convolutions compute what the neutral form does, on their function bodies alone."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bitfold.passes.core.context import Context
from bitfold.passes.core.invariants import check_invariants
from bitfold.passes.lower.lower import Lower
from bitfold.passes.quantize.quantize import Quantize
from bitfold.runtime.execution import open_session


def model_with(body: str, channels: int, spatial: str = "h, w", **arrays: np.ndarray) -> ir.Model:
    text = f"g (float[n, {channels}, {spatial}] x) => (float[n, m, {spatial}] y) {{ {body} }}"
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 23]> {text}')
    for name, array in arrays.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ir.from_proto(model)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def lowered(model: ir.Model, x: np.ndarray, **options) -> tuple[np.ndarray, np.ndarray, Context]:
    """Outputs of the neutral and of the native form."""
    with Context() as context:
        Quantize(**options).run(model, context)
        neutral = open_session(model, op_library=False).run({"x": x})["y"]
        assert Lower().run(model, context)
    check_invariants(model, node_names=False)
    return neutral, open_session(model, op_library=False).run({"x": x})["y"], context


@settings(max_examples=30, deadline=None)
@given(
    cg=st.sampled_from([1, 10, 16, 24, 48]),
    groups=st.sampled_from([1, 2, 3]),
    kernel=st.sampled_from([(1,), (3,), (1, 1), (3, 3), (2, 5)]),
    stride=st.integers(1, 2),
    dilation=st.integers(1, 2),
    pads=st.lists(st.integers(0, 2), min_size=4, max_size=4),
    weights=st.sampled_from(["int8", "int4", "ternary"]),
    options=st.sampled_from([{}, {"acts": "none"}, {"act_granularity": "token"}]),
    bias=st.booleans(),
)
def test_every_shape_keeps_its_values(
    cg, groups, kernel, stride, dilation, pads, weights, options, bias
):
    rank = len(kernel)
    n = groups * max(1, -(-1024 // (cg * int(np.prod(kernel)) * groups)))
    ends = [*pads[:rank], *pads[2 : 2 + rank]]
    arrays = {"w": normal(n, cg, *kernel)} | ({"b": normal(n, seed=1)} if bias else {})
    attributes = (
        f"group = {groups}, strides = {[stride] * rank}, pads = {ends}, "
        f"dilations = {[dilation] * rank}"
    )
    body = f"y = Conv <{attributes}> (x, w{', b' * bias})"
    model = model_with(body, cg * groups, ", ".join("hw"[:rank]), **arrays)
    x = normal(2, cg * groups, *(dilation * each + 3 for each in kernel), seed=2)
    with Context() as context:
        Quantize(weights=weights, group=16, **options).run(model.clone(), context)
    assume(context.entry.sites)  # where padding would outweigh the bits, it stays in float
    neutral, native, _ = lowered(model, x, weights=weights, group=16, **options)
    assert np.allclose(native, neutral, rtol=1e-4, atol=1e-5 * np.abs(neutral).max())
    assert [node.op_type for node in model.graph] == ["LowBitConv"]
    assert "w" not in model.graph.initializers


LIMITS = {"low": np.float32(-0.25), "high": np.float32(0.5)}


@pytest.mark.parametrize(
    ("tail", "activation", "limits"),
    [
        ("y = Relu(c)", "relu", {}),
        ("y = Clip(c, low, high)", "clip", LIMITS),
        ("y = Clip(c, , high)", "clip", LIMITS),
        ("y = Clip(c, low)", "clip", LIMITS),
        ("y = HardSwish(c)", "hardswish", {}),
        ("y = Sigmoid(c)", "none", {}),
        ("r = Relu(c)  y = Add(r, c)", "none", {}),
        ("high = ReduceMean <keepdims = 0> (x)  y = Clip(c, low, high)", "none", LIMITS),
        ("y = Clip(c, high, low)", "none", LIMITS),
    ],
)
def test_what_limits_the_output_goes_into_the_operator(tail, activation, limits):
    arrays = {
        "w": normal(32, 32, 3, 3),
        **{k: v for k, v in limits.items() if f"{k} =" not in tail},
    }
    model = model_with(f"c = Conv(x, w)  {tail}", 32, **arrays)
    neutral, native, _ = lowered(model, normal(1, 32, 8, 8), weights="int4")
    assert np.allclose(native, neutral, rtol=1e-4, atol=1e-5 * np.abs(neutral).max())
    (conv,) = (node for node in model.graph if node.op_type == "LowBitConv")
    assert conv.attributes.get_string("activation") == activation
    left = {node.op_type for node in model.graph}
    assert left.isdisjoint({"Relu", "Clip", "HardSwish"}) == (
        activation != "none" or "Sigmoid" in tail
    )


TWO, HALF = np.array([2], np.float32), np.array(-0.5, np.float32)
GATE = "HardSigmoid <alpha = 0.16666667, beta = 0.5>"


@pytest.mark.parametrize(
    ("tail", "left", "taken"),
    [
        ("y = Add(c, x)", [], ["residual"]),
        ("r = Relu(c)  y = Add(x, r)", [], ["relu", "residual"]),
        (f"h = {GATE}(c)  y = Mul(h, c)", [], ["hardswish"]),
        (f"h = {GATE}(c)  y = Mul(c, h)", [], ["hardswish"]),
        ("h = HardSigmoid(c)  y = Mul(c, h)", ["HardSigmoid", "Mul"], []),
        (f"h = {GATE}(c)  y = Mul(x, h)", ["HardSigmoid", "Mul"], []),
        (f"h = {GATE}(c)  m = Mul(c, h)  y = Add(m, h)", ["HardSigmoid", "Mul", "Add"], []),
        (
            "a = HardSwish(c)  m = Mul(two, a)  s = Add(m, half)  y = Add(s, x)",
            [],
            ["hardswish", "scale", "shift", "residual"],
        ),
        ("y = Add(half, c)", [], ["shift"]),
        ("y = Mul(c, two)", [], ["scale"]),
        ("a = Add(c, x)  y = Relu(a)", ["Relu"], ["residual"]),
        ("s = Add(c, x)  m = Mul(s, two)  y = Add(m, s)", ["Mul", "Add"], ["residual"]),
        ("a = Add(c, row)  y = Relu(a)", ["Add", "Relu"], []),
        ("p = ReduceMean(x)  y = Add(c, p)", ["ReduceMean", "Add"], []),
        ("y = Mul(c, x)", ["Mul"], []),
        ("y = Add(c, c)", ["Add"], []),
    ],
)
@pytest.mark.parametrize("depthwise", [False, True])
def test_what_follows_goes_into_the_operator(tail, left, taken, depthwise):
    arrays = {"two": TWO, "half": HALF, "row": normal(1, 1, 1, 8)}
    weight, group = (normal(32, 32, 3, 3), 1) if not depthwise else (normal(128, 1, 3, 3), 128)
    channels = weight.shape[0]
    model = model_with(
        f"c = Conv <pads = [1, 1, 1, 1], group = {group}> (x, w)  {tail}",
        channels,
        w=weight,
        **{name: array for name, array in arrays.items() if name in tail},
    )
    model.graph.outputs[0].shape = ir.Shape(["n", channels, "h", "w"])
    conv = model.graph.node(0).outputs[0]
    conv.shape, conv.dtype = ir.Shape(["n", channels, "h", "w"]), ir.DataType.FLOAT
    for node in model.graph:
        if node.op_type != "ReduceMean" and node.outputs[0].shape is None:
            node.outputs[0].shape = conv.shape
    x = normal(2, channels, 8, 8)
    neutral, native, _ = lowered(model, x, weights="int8")
    assert np.allclose(native, neutral, rtol=1e-4, atol=1e-5 * np.abs(neutral).max())
    assert sorted(node.op_type for node in model.graph) == sorted(["LowBitConv", *left])
    (operator,) = (node for node in model.graph if node.op_type == "LowBitConv")
    assert operator.overload.endswith(("residual",)) == ("residual" in taken)
    found = [operator.attributes.get_string("activation")]
    found += [name for name in ("scale", "shift") if f"out_{name}" in operator.attributes]
    expected = [name for name in taken if name in ("relu", "hardswish")] or ["none"]
    assert found == expected + [name for name in taken if name in ("scale", "shift")]


def test_the_activation_of_a_shared_output_stays():
    model = model_with("c = Conv(x, w)  y = Relu(c)", 32, w=normal(32, 32, 3, 3))
    model.graph.outputs.append(model.graph.node(0).outputs[0])
    model.graph.outputs[-1].dtype = ir.DataType.FLOAT
    lowered(model, normal(1, 32, 8, 8), weights="int8")
    assert [node.op_type for node in model.graph] == ["LowBitConv", "Relu"]
    assert [value.name for value in model.graph.outputs] == ["y", "c"]


def test_a_shared_weight_is_packed_once_and_again_for_other_groups():
    body = """
        a = Conv <pads = [1, 1, 1, 1]> (x, w)
        b = Conv <pads = [2, 2, 2, 2], dilations = [2, 2]> (x, w)
        both = Concat <axis = 1> (x, x)  c = Conv <pads = [1, 1, 1, 1], group = 2> (both, w)
        d = Add(a, b)  y = Add(d, c)
    """
    model = model_with(body, 32, w=normal(32, 32, 3, 3))
    neutral, native, _ = lowered(model, normal(1, 32, 8, 8), weights="int8")
    assert np.allclose(native, neutral, rtol=1e-4, atol=1e-5 * np.abs(neutral).max())
    packed = [node.inputs[1] for node in model.graph if node.op_type == "LowBitConv"]
    assert packed[0] is packed[1]
    assert packed[2] is not packed[0]


def test_a_convolution_in_a_branch_is_lowered_there():
    body = """
        y = If (flag) <
            then_branch = then () => (float[n, m, h, w] a) { a = Conv(x, w) },
            else_branch = other () => (float[n, m, h, w] b) { c = Conv(x, w)  b = Relu(c) }
        >
    """
    text = f"g (float[n, 32, h, w] x, bool flag) => (float[n, m, h, w] y) {{ {body} }}"
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 23]> {text}')
    proto.graph.initializer.append(onnx.numpy_helper.from_array(normal(32, 32, 3, 3), "w"))
    model = ir.from_proto(proto)
    feeds = {"x": normal(1, 32, 8, 8), "flag": np.array(False)}
    expected = open_session(model).run(feeds)["y"]
    with Context() as context:
        Quantize(weights="int8").run(model, context)
        Lower().run(model, context)
    check_invariants(model, node_names=False)
    found = open_session(model, op_library=False).run(feeds)["y"]
    assert np.square(found - expected).mean() < 1e-3 * expected.var()
    ops = [node.op_type for node in model.graph.all_nodes()]
    assert sorted(ops) == ["If", "LowBitConv", "LowBitConv"]
