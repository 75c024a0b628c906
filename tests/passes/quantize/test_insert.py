"""Where quantizers go in graphs of unusual shape, run against the float model."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from bitfold.passes.core.context import Context
from bitfold.passes.core.invariants import check_invariants
from bitfold.passes.lower.lower import Lower
from bitfold.passes.quantize.quantize import Quantize
from bitfold.runtime.execution import open_session

X = np.random.default_rng(1).normal(size=(3, 64)).astype(np.float32)


def model_with(body: str, inputs: str = "float[b, 64] x", **weights: tuple[int, ...]) -> ir.Model:
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 23]> g ({inputs}) => (float[b, n] y) {{ {body} }}'
    )
    rng = np.random.default_rng(0)
    for name, shape in weights.items():
        array = rng.normal(size=shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ir.from_proto(onnx.shape_inference.infer_shapes(model))


def converted(model: ir.Model, feeds=None, target="native") -> tuple[ir.Model, Context, float]:
    """The model at 8 bits, and its error relative to the float outputs' root mean square."""
    feeds = feeds or {"x": X}
    expected = open_session(model).run(feeds)["y"]
    with Context() as context:
        Quantize(weights="int8").run(model, context)
        check_invariants(model, node_names=False)
        Lower(target=target).run(model, context)
    check_invariants(model, node_names=False)
    found = open_session(model, op_library=False).run(feeds)["y"]
    return model, context, float(np.sqrt(np.square(found - expected).mean() / expected.var()))


@pytest.mark.parametrize(
    "body",
    [
        "a = MatMul(x, w)  t = Transpose <perm = [1, 0]> (w)  y = MatMul(a, t)",
        "a = Gemm(x, w)  y = Gemm <transB = 1> (a, w)",
    ],
)
def test_one_weight_in_both_orientations_is_two(body):
    model, _, error = converted(model_with(body, w=(64, 64)))
    assert error < 0.05
    assert [node.op_type for node in model.graph] == ["LowBitMatMul", "LowBitMatMul"]
    assert len([name for name in model.graph.initializers if name.endswith(".packed")]) == 2


def test_a_quantizer_comes_before_the_first_of_its_readers():
    body = "a = MatMul(x, w)  d = Relu(a)  c = MatMul(d, v)  e = MatMul(d, w)  y = Add(c, e)"
    model, _, error = converted(model_with(body, w=(64, 64), v=(64, 64)))
    assert error < 0.05
    assert "QuantizeActivation" not in {node.op_type for node in model.graph}


def test_a_bias_inside_a_branch_stays_there():
    body = """
        a = MatMul(x, w)
        y = If (flag) <
            then_branch = then () => (float[b, 64] z) { z = Add(a, bias) },
            else_branch = other () => (float[b, 64] z) { z = Neg(x) }
        >
    """
    model = model_with(body, "float[b, 64] x, bool flag", w=(64, 64), bias=(64,))
    model, _, error = converted(model, {"x": X, "flag": np.array(True)})
    assert error < 0.05


@pytest.mark.parametrize("flag", [True, False])
def test_a_value_that_branches_read_too_has_one_quantizer(flag):
    body = """
        r = Relu(x)
        m = MatMul(r, w)
        y = If (flag) <
            then_branch = then () => (float[b, 64] z) { a = MatMul(r, w)  z = Add(a, m) },
            else_branch = other () => (float[b, 64] z) { a = MatMul(m, v)  z = MatMul(a, v) }
        >
    """
    model = model_with(body, "float[b, 64] x, bool flag", w=(64, 64), v=(64, 64))
    with Context() as context:
        neutral = model.clone()
        Quantize(weights="int8").run(neutral, context)
    quantizers = [n.name for n in neutral.graph.all_nodes() if n.op_type == "QuantizeActivation"]
    assert len(quantizers) == 3  # r, m, and a of the second branch
    for target in ("native", "ort", "portable"):
        lowered = model.clone()
        feeds = {"x": X, "flag": np.array(flag)}
        lowered, _, error = converted(lowered, feeds, target)
        assert error < 0.05


def test_branches_with_weights_of_one_name_keep_their_own():
    body = """
        y = If (flag) <
            then_branch = then () => (float[b, 64] z) { z = MatMul(x, w) },
            else_branch = other () => (float[b, 64] z) {
                z = If (flag) <
                    then_branch = c () => (float[b, 64] s) { s = MatMul(x, w) },
                    else_branch = d () => (float[b, 64] s) { s = MatMul(x, w) }
                >
            }
        >
    """
    model = model_with(body, "float[b, 64] x, bool flag", w=(64, 64))
    (outer,) = model.graph
    other = outer.attributes["else_branch"].as_graph()
    branches = [outer.attributes["then_branch"].as_graph()]
    branches += [other[0].attributes[name].as_graph() for name in ("then_branch", "else_branch")]
    main = model.graph.initializers.pop("w")
    for seed, branch in enumerate(branches):
        array = np.random.default_rng(seed).normal(size=(64, 64)).astype(np.float32)
        own = ir.Value(name="w", type=main.type, shape=main.shape, const_value=ir.tensor(array))
        branch.register_initializer(own)
        branch[0].replace_input_with(1, own)
    for flag in (True, False):
        lowered, _, error = converted(model.clone(), {"x": X, "flag": np.array(flag)})
        assert error < 0.05
        assert len([name for name in lowered.graph.initializers if name.endswith(".packed")]) == 3


@pytest.mark.parametrize(
    ("body", "shape", "reason"),
    [
        ("t = Transpose <perm = [1, 0]> (x)  y = MatMul(w, t)", (64, 64), "left operand"),
        ("z = MatMul(x, w)  y = Squeeze(z)", (1, 64, 64), "3 axes"),
        ("y = Gemm <alpha = 2.0> (x, w)", (64, 64), "alpha is 2, not 1"),
        ("y = Gemm <transA = 1> (x, w)", (3, 64), "transposes its data"),
        ("i = Constant <value_ints = [3, 5]> ()  y = Gather <axis = 1> (w, i)", (64, 64), "axis 1"),
    ],
)
def test_what_almost_is_a_site_is_listed_with_its_reason(body, shape, reason):
    with Context() as context:
        assert not Quantize().run(model_with(body, w=shape), context)
    assert len(context.entry.skips) == 1
    assert reason in context.entry.skips[0].text


def test_a_weight_that_callers_may_replace_stays():
    model = model_with("y = MatMul(x, w)", w=(64, 64))
    model.graph.inputs.append(model.graph.initializers["w"])
    with Context() as context:
        assert not Quantize().run(model, context)
    assert "graph input" in context.entry.skips[0].text
