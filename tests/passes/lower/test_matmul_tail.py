"""What LowBitMatMul's epilogue takes in, and what it leaves alone; run on the function bodies."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from bitfold.passes.analysis.row_origin import same_shape
from bitfold.passes.core.context import Context
from bitfold.passes.lower.lower import Lower
from bitfold.passes.quantize.quantize import Quantize

HEAD = '<ir_version: 10, opset_import: ["": 23]> g'


def quantized(text: str) -> ir.Model:
    """A model with weights w, w2 [48, 64], square [64, 64] and vectors b [64], quantized."""
    model = onnx.parser.parse_model(HEAD + text)
    rng = np.random.default_rng(0)
    shapes = {"w": (48, 64), "w2": (48, 64), "square": (64, 64), "b": (64,)}
    used = {name for node in model.graph.node for name in node.input}
    for name in sorted(used & set(shapes)):
        array = rng.normal(size=shapes[name]).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    result = ir.from_proto(onnx.shape_inference.infer_shapes(model, data_prop=True))
    with Context() as context:
        Quantize(weights="int4", group=16).run(result, context)
    return result


def run(model: ir.Model, rows: tuple[int, ...] = (2, 5)) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    feeds = {
        str(value.name): rng.normal(size=(*rows, value.shape[-1])).astype(np.float32)
        for value in model.graph.inputs
        if value.shape is not None
    }
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    ).run(None, feeds)


def lowered(text: str) -> ir.Model:
    """The model in LowBitMatMuls, checked against itself before that."""
    model = quantized(text)
    names = [value.name for value in model.graph.outputs]
    before = run(model)
    with Context() as context:
        Lower().run(model, context)
    assert [value.name for value in model.graph.outputs] == names
    for found, expected in zip(run(model), before, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    return model


def ops(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def inputs_of(node: ir.Node) -> list[str]:
    return [value.name or "" if value is not None else "" for value in node.inputs]


@pytest.mark.parametrize(
    ("op", "activation"),
    [
        ("Relu", "relu"),
        ("Gelu", "gelu"),
        ('Gelu <approximate = "none">', "gelu"),
        ('Gelu <approximate = "tanh">', "gelu_tanh"),
    ],
)
@pytest.mark.parametrize("bias", ["sum = Add(h, b)", "sum = Identity(h)"])
def test_activation(op: str, activation: str, bias: str) -> None:
    model = lowered(
        f"(float[m, s, 48] x) => (float[m, s, 64] y) {{h = MatMul(x, w)\n{bias}\ny = {op}(sum)}}"
    )
    if bias.startswith("sum = Add"):
        assert ops(model) == ["LowBitMatMul"]
        assert model.graph.node(0).attributes.get_string("activation") == activation


@pytest.mark.parametrize("order", ["Add(h, r)", "Add(r, h)"])
@pytest.mark.parametrize("activation", ["", "Relu"])
def test_residual(order: str, activation: str) -> None:
    tail = f"h = {activation}(a)" if activation else "h = Add(a, b)"
    model = lowered(
        f"(float[2, 5, 48] x, float[2, 5, 64] r) => (float[2, 5, 64] y) "
        f"{{a = MatMul(x, w)\n{tail}\ny = {order}}}"
    )
    assert ops(model) == ["LowBitMatMul"]
    assert inputs_of(model.graph.node(0))[6] == "r"


def test_residual_of_a_residual() -> None:
    """Two matmuls and a value added up: each takes in one Add."""
    model = lowered(
        "(float[m, s, 48] x, float[m, s, 64] r) => (float[m, s, 64] y) "
        "{p = MatMul(x, w)\nq = MatMul(x, w2)\nsum = Add(p, q)\ny = Add(sum, r)}"
    )
    assert sorted(ops(model)) == ["Add", "LowBitMatMul", "LowBitMatMul"]


@pytest.mark.parametrize(
    "other",
    [
        "float[one, s, 64] r",  # may broadcast
        "float[s, 64] r",
        "float[m, s, 1] r",
    ],
)
def test_what_may_broadcast_is_no_residual(other: str) -> None:
    model = quantized(
        f"(float[m, s, 48] x, {other}) => (float[m, s, 64] y) {{h = MatMul(x, w)\ny = Add(h, r)}}"
    )
    with Context() as context:
        Lower().run(model, context)
    assert ops(model) == ["LowBitMatMul", "Add"]


def test_a_sum_with_itself_is_no_residual() -> None:
    model = lowered("(float[m, s, 48] x) => (float[m, s, 64] y) {h = MatMul(x, w)\ny = Add(h, h)}")
    assert ops(model) == ["LowBitMatMul", "Add"]


def test_what_is_used_elsewhere_stays() -> None:
    model = lowered(
        "(float[m, s, 48] x, float[m, s, 64] r) => (float[m, s, 64] y, float[m, s, 64] a) "
        "{h = MatMul(x, w)\na = Relu(h)\ny = Add(a, r)}"
    )
    assert ops(model) == ["LowBitMatMul", "Add"]
    assert model.graph.node(0).attributes.get_string("activation") == "relu"


@pytest.mark.parametrize("sizes", [(16, 48), (32, 16, 16), (48, 16), (32, 30, 2), (10, 54)])
def test_split(sizes: tuple[int, ...]) -> None:
    names = [f"y{index}" for index in range(len(sizes))]
    outputs = ", ".join(
        f"float[m, s, {size}] {name}" for name, size in zip(names, sizes, strict=True)
    )
    model = lowered(
        f"(float[m, s, 48] x) => ({outputs}) <int64[{len(sizes)}] sizes = "
        f"{{{', '.join(map(str, sizes))}}}> {{h = MatMul(x, w)\nsum = Add(h, b)\n"
        f"{', '.join(names)} = Split <axis = -1> (sum, sizes)}}"
    )
    whole = not any(size % 16 for size in sizes[:-1])
    assert ops(model) == (["LowBitMatMul"] if whole else ["LowBitMatMul", "Split"])
    assert list(model.graph.node(0).attributes.get_ints("splits", [])) == list(sizes) * whole


def test_split_of_rows_stays() -> None:
    model = lowered(
        "(float[2, 5, 48] x) => (float[1, 5, 64] p, float[1, 5, 64] q) "
        "{h = MatMul(x, w)\np, q = Split <axis = 0, num_outputs = 2> (h)}"
    )
    assert ops(model) == ["LowBitMatMul", "Split"]


def test_rows_are_followed_where_names_are_lost() -> None:
    """Behind a Reshape to a computed shape two values still have the same shape."""
    model = lowered(
        """(float[m, s, 48] x) => (float[p, q, 64] y) <int64[3] shape = {0, -1, 48}> {
            start = Reshape(x, shape)
            first = MatMul(start, w)
            r = Relu(first)
            h = MatMul(r, square)
            y = Add(h, r)
        }"""
    )
    assert ops(model) == ["Reshape", "LowBitMatMul", "LowBitMatMul"]


def test_same_shape() -> None:
    model = ir.from_proto(
        onnx.shape_inference.infer_shapes(
            onnx.parser.parse_model(
                HEAD
                + """(float[m, s, 48] x, float[m, t, 48] z, float[48] v) => (float[m, s, 48] y) {
                a = Add(v, x)
                g = Gelu(a)
                parts, other = Split <axis = -1, num_outputs = 2> (g)
                y = Add(x, g)
            }"""
            )
        )
    )
    values = {value.name: value for node in model.graph for value in node.outputs}
    values.update((value.name, value) for value in model.graph.inputs)
    for value in values.values():  # as shape inference leaves them behind a Reshape
        if value.name in ("a", "g", "y"):
            value.shape = ir.Shape([None, None, 48])
    x, z, y = values["x"], values["z"], values["y"]
    assert same_shape(x, values["g"])
    assert same_shape(y, values["a"])
    assert same_shape(values["parts"], values["other"])
    assert not same_shape(x, values["parts"])
    assert not same_shape(x, z)
    assert not same_shape(x, values["v"])


@pytest.mark.parametrize("spelled", ["m, s", "q, r"])
def test_a_name_on_two_inputs_does_not_make_a_residual(spelled) -> None:
    """A timestep of batch 1 may be fed beside images of another batch, however both are named."""
    text = f"""(float[m, s, 48] x, float[{spelled}, 64] other) => (float[p, t, 64] y) {{
        r = Relu(other)
        h = MatMul(x, w)
        y = Add(h, r)
    }}"""
    model = lowered(text)
    assert ops(model) == ["Relu", "LowBitMatMul", "Add"]


def test_rows_are_followed_through_heads() -> None:
    """What comes of one input has its batch, though a second input has a batch of that name."""
    model = lowered(
        """(float[m, s, 48] x, float[m, s, 1] mask) => (float[m, s, 64] y)
            <int64[4] heads = {0, 0, 4, 16}, int64[3] flat = {0, 0, 64}> {
            start = MatMul(x, w)
            r = Relu(start)
            cut = Reshape(r, heads)
            turned = Transpose <perm = [0, 2, 1, 3]> (cut)
            n = Neg(turned)
            back = Transpose <perm = [0, 2, 1, 3]> (n)
            joined = Reshape(back, flat)
            h = MatMul(joined, square)
            y = Add(h, r)
        }"""
    )
    assert ops(model).count("LowBitMatMul") == 2
    assert "Add" not in ops(model)
