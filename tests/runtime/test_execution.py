"""Models run from memory: weights in files, in memory and in odd types; errors in one line."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from support.small_models import MLP, MLP_SHAPES, make_model, weight

from bitfold.runtime.errors import ModelError, UnsupportedError
from bitfold.runtime.execution import open_session
from bitfold.runtime.weight_lending import EMBED_BELOW

WIDTH = 96


def matmul_model(tensor: ir.TensorProtocol, dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Model:
    """``y = x @ cast(w)`` with a weight that is large enough to stay outside the graph."""
    assert tensor.nbytes >= EMBED_BELOW
    x = ir.val("x", dtype=ir.DataType.FLOAT, shape=["rows", tensor.shape[0]])
    w = ir.Value(name="w", const_value=tensor)
    w.dtype, w.shape = dtype, ir.Shape(tensor.shape.numpy())
    cast = ir.node("Cast", [w], {"to": 1}, name="cast")
    cast.outputs[0].name = "wide"
    product = ir.node("MatMul", [x, cast.outputs[0]], name="product")
    y = product.outputs[0]
    y.name, y.dtype, y.shape = "y", ir.DataType.FLOAT, ir.Shape(["rows", tensor.shape[1]])
    graph = ir.Graph(
        [x], [y], nodes=[cast, product], initializers=[w], opset_imports={"": 21}, name="g"
    )
    return ir.Model(graph, ir_version=10)


def rows() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((3, WIDTH)).astype(np.float32)


def weights() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((WIDTH, WIDTH)).astype(np.float32)


def in_memory(w, path):
    return ir.tensor(w, name="w")


def transposed(w, path):
    return ir.tensor(np.ascontiguousarray(w.T).T, name="w")


def mapped(w, path):
    w.tofile(path)
    return ir.tensor(np.memmap(path, np.float32, "r", shape=w.shape), name="w")


def view_of_a_map(w, path):
    """Rows from the middle of a mapping that itself begins inside the file."""
    np.concatenate([np.zeros((7, WIDTH), np.float32), w]).tofile(path)
    whole = np.memmap(path, np.float32, "r", offset=2 * WIDTH * 4, shape=(WIDTH + 5, WIDTH))
    return ir.tensor(whole[5:], name="w")


def external(w, path):
    path.write_bytes(b"\0" * 24 + w.tobytes())
    return ir.ExternalTensor(
        path.name, 24, w.nbytes, ir.DataType.FLOAT, shape=ir.Shape(w.shape), name="w",
        base_dir=path.parent,
    )  # fmt: skip


def private_map(w, path):
    """A copy-on-write mapping whose changes the file does not have."""
    np.zeros_like(w).tofile(path)
    array = np.memmap(path, np.float32, "c", shape=w.shape)
    array[:] = w
    return ir.tensor(array, name="w")


@pytest.mark.parametrize("optimize", [False, True])
@pytest.mark.parametrize(
    "place", [in_memory, transposed, mapped, view_of_a_map, external, private_map]
)
def test_weights_are_read_where_they_lie(place, optimize, tmp_path):
    w = weights()
    tensor = place(w, tmp_path / "weights.bin")
    model = matmul_model(tensor)
    found = open_session(model, optimize=optimize).run({"x": rows()})
    np.testing.assert_allclose(found["y"], rows() @ w, rtol=1e-4, atol=1e-4)
    assert model.graph.initializers["w"].const_value is tensor


@pytest.mark.parametrize("optimize", [False, True])
@pytest.mark.parametrize("width", [8, WIDTH])
@pytest.mark.parametrize("place", [in_memory, mapped, external])
@pytest.mark.parametrize("depth", [1, 2])
def test_weights_inside_subgraphs_are_found(place, width, depth, optimize, tmp_path):
    """Both sides of EMBED_BELOW, in an If and in an If within an If."""
    generator = np.random.default_rng(0)
    arrays = [generator.standard_normal((width, width)).astype(np.float32) for _ in range(2)]
    assert (arrays[0].nbytes < EMBED_BELOW) == (width == 8)
    cond, x = ir.val("c", dtype=ir.DataType.BOOL, shape=[]), ir.val("x", dtype=ir.DataType.FLOAT)
    x.shape = ir.Shape(["rows", width])
    branches = []
    for index, array in enumerate(arrays):
        tensor = place(array, tmp_path / f"{index}.bin")
        w = ir.Value(name="w", const_value=tensor)  # one name in both: each is its own scope
        w.dtype, w.shape = ir.DataType.FLOAT, ir.Shape(array.shape)
        product = ir.node("MatMul", [x, w], name="product")
        product.outputs[0].name = f"branch{index}"
        branches.append(ir.Graph([], product.outputs, nodes=[product], initializers=[w], name="b"))
    weights_before = [branch.initializers["w"].const_value for branch in branches]
    for level in range(depth):
        attributes = {"then_branch": branches[0], "else_branch": branches[1]}
        chosen = ir.node("If", [cond], attributes, name=f"if{level}")
        chosen.outputs[0].name = f"y{level}"
        if level + 1 < depth:
            other = ir.node("Identity", [x], name="other")
            other.outputs[0].name = "unused"
            # The condition is the same inside: the outer branch only matters when it is true.
            branches = [
                ir.Graph([], chosen.outputs, nodes=[chosen], name="outer"),
                ir.Graph([], other.outputs, nodes=[other], name="copy"),
            ]
    y = chosen.outputs[0]
    y.dtype, y.shape = ir.DataType.FLOAT, ir.Shape(["rows", width])
    graph = ir.Graph([cond, x], [y], nodes=[chosen], opset_imports={"": 21}, name="g")
    feeds = {"x": generator.standard_normal((3, width)).astype(np.float32)}
    session = open_session(ir.Model(graph, ir_version=10), optimize=optimize)
    expected = {
        True: feeds["x"] @ arrays[0],
        False: feeds["x"] @ arrays[1] if depth == 1 else feeds["x"],
    }
    for condition, want in expected.items():
        found = session.run({**feeds, "c": np.array(condition)})[y.name]
        np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-4)
    if depth == 1:
        assert [branch.initializers["w"].const_value for branch in branches] == weights_before


def test_a_lent_weight_is_not_copied():
    """What changes in memory after the session opened changes the result: nothing was copied."""
    w = weights()
    x = ir.val("x", dtype=ir.DataType.FLOAT, shape=["rows", WIDTH])
    value = ir.Value(name="w", const_value=ir.tensor(w, name="w"))
    value.dtype, value.shape = ir.DataType.FLOAT, ir.Shape(w.shape)
    product = ir.node("MatMul", [x, value], name="product")
    product.outputs[0].name = "y"
    graph = ir.Graph(
        [x], product.outputs, nodes=[product], initializers=[value], opset_imports={"": 21},
        name="g",
    )  # fmt: skip
    execution = open_session(ir.Model(graph, ir_version=10), optimize=False)
    w *= 2
    np.testing.assert_allclose(execution.run({"x": rows()})["y"], rows() @ w, rtol=1e-4, atol=1e-4)


def test_lent_weights_outlive_the_model():
    execution = open_session(matmul_model(ir.tensor(weights(), name="w")), optimize=False)
    np.testing.assert_allclose(
        execution.run({"x": rows()})["y"], rows() @ weights(), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("optimize", [False, True])
@pytest.mark.parametrize(
    "dtype",
    [ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.FLOAT8E4M3FN, ir.DataType.INT8,
     ir.DataType.INT4, ir.DataType.UINT4],
)  # fmt: skip
def test_narrow_types(dtype, optimize):
    low = 0 if dtype == ir.DataType.UINT4 else -7
    codes = np.random.default_rng(0).integers(low, 8, (WIDTH * 4, WIDTH))
    tensor = ir.tensor(codes.astype(dtype.numpy()), dtype=dtype, name="w")
    x = np.random.default_rng(1).standard_normal((3, WIDTH * 4)).astype(np.float32)
    found = open_session(matmul_model(tensor, dtype), optimize=optimize).run({"x": x})
    np.testing.assert_allclose(found["y"], x @ codes.astype(np.float32), rtol=1e-3, atol=1e-2)


def test_bfloat16_goes_in_and_comes_out_as_float32():
    text = """<ir_version: 10, opset_import: ["" : 21]>
    g (bfloat16[n] x) => (bfloat16[n] y) { y = Identity (x) }"""
    x = np.array([1.5, -2.0, 3.0], ml_dtypes.bfloat16)
    found = open_session(make_model(text, {})).run({"x": x})
    assert found["y"].dtype == np.float32
    assert found["y"].tolist() == [1.5, -2.0, 3.0]


def test_inner_values_as_outputs():
    model = make_model(MLP, MLP_SHAPES)
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    x = np.random.default_rng(0).standard_normal((2, 24)).astype(np.float32)
    found = open_session(model, outputs=["hidden", "up"], optimize=False).run({"x": x})
    up = x @ weight(model, "w_up")
    assert list(found) == ["hidden", "up"]
    np.testing.assert_allclose(found["up"], up, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        found["hidden"], np.maximum(up + weight(model, "b_up"), 0), rtol=1e-5, atol=1e-5
    )
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
    with pytest.raises(ModelError, match=r"found \['nothing'\]"):
        open_session(model, outputs=["up", "nothing"])


def test_nodes_that_an_output_does_not_need_are_not_run():
    text = """<ir_version: 10, opset_import: ["" : 21]>
    g (float[4] x) => (float[4] y, float[3] z) { y = Neg (x)  bad = Add (x, odd)  z = Abs (bad) }"""
    model = make_model(text, {"odd": (3,)})
    x = np.ones(4, np.float32)
    assert open_session(model, outputs=["y"], optimize=False).run({"x": x})["y"][0] == -1
    with pytest.raises(ModelError):
        open_session(model, optimize=False).run({"x": x})


def test_values_used_only_inside_subgraphs_are_kept():
    text = """<ir_version: 10, opset_import: ["" : 21]>
    g (bool c, float[2] x) => (float[2] y, float[2] z) {
        a = Neg (x)
        y = If (c) <
            then_branch = t () => (float[2] p) { p = Abs (a) },
            else_branch = e () => (float[2] q) { q = Identity (x) }
        >
        z = Exp (x)
    }"""
    feeds = {"c": np.array(True), "x": np.array([-1.0, 2.0], np.float32)}
    found = open_session(make_model(text, {}), outputs=["y"], optimize=False).run(feeds)
    assert found["y"].tolist() == [1, 2]


def test_branches_that_an_output_does_not_need_let_go_of_what_they_read():
    text = """<ir_version: 10, opset_import: ["" : 21]>
    g (bool c, float[2] x) => (float[2] y, float[2] z) {
        a = Neg (x)
        b = Abs (a)
        y = If (c) <
            then_branch = t () => (float[2] p) {
                p = If (c) <
                    then_branch = tt () => (float[2] r) { s = Exp (b)  r = Neg (s) },
                    else_branch = te () => (float[2] u) { u = Identity (b) }
                >
            },
            else_branch = e () => (float[2] q) { q = Add (a, b) }
        >
        z = Exp (a)
    }"""
    model = make_model(text, {})
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    feeds = {"c": np.array(True), "x": np.array([-1.0, 2.0], np.float32)}
    assert open_session(model, outputs=["a"]).run(feeds)["a"].tolist() == [1, -2]
    assert open_session(model, outputs=["b"]).run(feeds)["b"].tolist() == [1, 2]
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_model_local_functions_run():
    text = """<ir_version: 10, opset_import: ["" : 21, "my" : 1]>
    g (float[2] x) => (float[2] y) { a = my.F (x)  y = my.G (a) }
    <domain: "my", opset_import: ["" : 21]> F (a) => (b) { b = Neg (a) }
    <domain: "my", opset_import: ["" : 21]> G (a) => (b) { b = Exp (a) }"""
    model = make_model(text, {})
    x = np.array([1.0, 2.0], np.float32)
    np.testing.assert_allclose(open_session(model).run({"x": x})["y"], np.exp(-x), rtol=1e-6)


def test_large_constant_nodes_need_no_space_in_the_graph():
    model = matmul_model(ir.tensor(weights(), name="w"))
    value = model.graph.initializers.pop("w")
    constant = ir.node("Constant", [], {"value": value.const_value}, name="constant")
    value.replace_all_uses_with(constant.outputs[0])
    constant.outputs[0].name = "w"
    model.graph.insert_before(model.graph[0], constant)
    found = open_session(model, optimize=False).run({"x": rows()})
    np.testing.assert_allclose(found["y"], rows() @ weights(), rtol=1e-4, atol=1e-4)
    assert model.graph[0].op_type == "Constant"


def test_errors_are_ours_and_name_the_node():
    text = """<ir_version: 10, opset_import: ["" : 21]>
    g (float[n] x, float[m] z) => (float[n] y) { y = Add (x, z) }"""
    model = make_model(text, {})
    execution = open_session(model)
    assert execution.input_names == ["x", "z"]
    with pytest.raises(ModelError, match=r"missing \['z'\]"):
        execution.run({"x": np.ones(2, np.float32)})
    with pytest.raises(ModelError, match="add_0") as caught:
        execution.run({"x": np.ones(2, np.float32), "z": np.ones(3, np.float32)})
    assert "\n" not in str(caught.value)
    text = text.replace("Add", "Sparkle")
    with pytest.raises((ModelError, UnsupportedError), match="Sparkle") as caught:
        open_session(make_model(text, {}))
    assert "\n" not in str(caught.value)
