"""Graphs as people have them convert: every site is found and quantized, wherever it hides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from bitfold.frontend.convert import ConvertResult, convert
from bitfold.passes.core.pipeline import Pipeline
from bitfold.runtime.execution import open_session

FLOAT, BOOL, INT64 = TensorProto.FLOAT, TensorProto.BOOL, TensorProto.INT64
RECIPE = "canonicalize, quantize{weights=int8 group=32}, lower"
node, info = helper.make_node, helper.make_tensor_value_info


def weights(seed: int = 0, **shapes: Any) -> list[onnx.TensorProto]:
    rng = np.random.default_rng(seed)
    return [
        numpy_helper.from_array((rng.standard_normal(s) / s[0] ** 0.5).astype(np.float32), name)
        for name, s in shapes.items()
    ]


def model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    initializers: list[onnx.TensorProto],
    opset: int = 17,
    **options: Any,
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializers)
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("local", 1)]
    return helper.make_model(graph, opset_imports=imports, **{"ir_version": 8, **options})


def mlp(opset: int = 17, dtype: int = FLOAT, shape: Any = ("b", 64)) -> onnx.ModelProto:
    nodes = [
        node("MatMul", ["x", "w1"], ["a"], name="up"),
        node("Add", ["a", "b1"], ["c"]),
        node("Relu", ["c"], ["d"]),
        node("MatMul", ["d", "w2"], ["y"], name="down"),
    ]
    made = model(
        nodes,
        [info("x", dtype, shape)],
        [info("y", dtype, None if shape is None else ("b", 32))],
        weights(w1=(64, 128), b1=(128,), w2=(128, 32)),
        opset,
    )
    if dtype != FLOAT:
        half = {TensorProto.FLOAT16: np.float16, TensorProto.BFLOAT16: ml_dtypes.bfloat16}[dtype]
        for tensor in made.graph.initializer:
            array = numpy_helper.to_array(tensor).astype(half)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return made


def constant_nodes() -> onnx.ModelProto:
    made = mlp()
    for tensor in reversed(made.graph.initializer):
        constant = node("Constant", [], [tensor.name], value=tensor)
        made.graph.node.insert(0, constant)
    made.graph.ClearField("initializer")
    return made


def weights_as_inputs() -> onnx.ModelProto:
    made = mlp(9)
    made.ir_version = 3
    made.graph.input.extend(info(t.name, FLOAT, list(t.dims)) for t in made.graph.initializer)
    return made


def unused_and_duplicate() -> onnx.ModelProto:
    made = mlp()
    extra = numpy_helper.to_array(made.graph.initializer[0])
    made.graph.initializer.append(numpy_helper.from_array(extra, "unused"))
    made.graph.initializer.append(numpy_helper.from_array(extra, "same"))
    made.graph.node.append(node("MatMul", ["x", "same"], ["z"], name="again"))
    made.graph.output.append(info("z", FLOAT, ("b", 128)))
    return made


def branches() -> onnx.ModelProto:
    """One branch's weight is captured from outside, the other's is its own."""
    then = helper.make_graph(
        [node("MatMul", ["h", "outer"], ["ty"], name="then")], "t", [], [info("ty", FLOAT, None)]
    )
    otherwise = helper.make_graph(
        [node("MatMul", ["h", "inner"], ["m"], name="else"), node("Relu", ["m"], ["ey"])],
        "e",
        [],
        [info("ey", FLOAT, None)],
        weights(1, inner=(128, 32)),
    )
    return model(
        [
            node("MatMul", ["x", "w1"], ["h"], name="up"),
            node("If", ["c"], ["y"], then_branch=then, else_branch=otherwise),
        ],
        [info("x", FLOAT, ("b", 64)), info("c", BOOL, ())],
        [info("y", FLOAT, ("b", 32))],
        weights(w1=(64, 128), outer=(128, 32)),
    )


def loop() -> onnx.ModelProto:
    body = helper.make_graph(
        [
            node("MatMul", ["state", "w"], ["m"], name="step"),
            node("Tanh", ["m"], ["next"]),
            node("Identity", ["go"], ["on"]),
            node("Identity", ["next"], ["each"]),
        ],
        "body",
        [info("i", INT64, ()), info("go", BOOL, ()), info("state", FLOAT, None)],
        [info("on", BOOL, ()), info("next", FLOAT, None), info("each", FLOAT, None)],
    )
    trips = numpy_helper.from_array(np.array(3, np.int64), "trips")
    return model(
        [node("Loop", ["trips", "", "x"], ["y", "all"], body=body)],
        [info("x", FLOAT, ("b", 64))],
        [info("y", FLOAT, ("b", 64)), info("all", FLOAT, (3, "b", 64))],
        [*weights(w=(64, 64)), trips],
    )


def scan() -> onnx.ModelProto:
    body = helper.make_graph(
        [
            node("MatMul", ["row", "w"], ["m"], name="step"),
            node("Add", ["m", "sum"], ["total"]),
            node("Identity", ["total"], ["each"]),
        ],
        "body",
        [info("sum", FLOAT, ("b", 64)), info("row", FLOAT, ("b", 64))],
        [info("total", FLOAT, ("b", 64)), info("each", FLOAT, ("b", 64))],
    )
    return model(
        [node("Scan", ["start", "x"], ["s", "y"], body=body, num_scan_inputs=1)],
        [info("start", FLOAT, ("b", 64)), info("x", FLOAT, ("t", "b", 64))],
        [info("s", FLOAT, ("b", 64)), info("y", FLOAT, ("t", "b", 64))],
        weights(w=(64, 64)),
    )


def functions() -> onnx.ModelProto:
    body = [node("MatMul", ["a", "w"], ["m"]), node("Relu", ["m"], ["b"])]
    opsets = [helper.make_opsetid("", 13)]
    return model(
        [
            node("Layer", ["x", "w1"], ["h"], domain="local"),
            node("Layer", ["h", "w2"], ["y"], domain="local"),
        ],
        [info("x", FLOAT, ("b", 64))],
        [info("y", FLOAT, ("b", 32))],
        weights(w1=(64, 128), w2=(128, 32)),
        functions=[helper.make_function("local", "Layer", ["a", "w"], ["b"], body, opsets)],
    )


def weight_behind_a_chain() -> onnx.ModelProto:
    made = mlp()
    (tensor,) = weights(w0=(128 * 64,))
    half = numpy_helper.to_array(tensor).astype(np.float16)
    made.graph.initializer[0].CopyFrom(numpy_helper.from_array(half, "w0"))
    shape = numpy_helper.from_array(np.array([128, 64], np.int64), "shape")
    made.graph.initializer.append(shape)
    chain = [
        node("Cast", ["w0"], ["cast"], to=FLOAT),
        node("Reshape", ["cast", "shape"], ["reshaped"]),
        node("Identity", ["reshaped"], ["same"]),
        node("Transpose", ["same"], ["w1"], perm=[1, 0]),
    ]
    for each in reversed(chain):
        made.graph.node.insert(0, each)
    return made


CASES: dict[str, tuple[Callable[[], onnx.ModelProto], int]] = {
    **{f"opset {opset}": (lambda opset=opset: mlp(opset), 2) for opset in (7, 9, 10, 15, 24, 26)},
    "float16": (lambda: mlp(dtype=TensorProto.FLOAT16), 2),
    "bfloat16": (lambda: mlp(dtype=TensorProto.BFLOAT16), 2),
    "no shapes": (lambda: mlp(shape=None), 2),
    "Constant nodes": (constant_nodes, 2),
    "weights as inputs": (weights_as_inputs, 2),
    "unused and duplicate weights": (unused_and_duplicate, 3),
    "If": (branches, 3),
    "Loop": (loop, 1),
    "Scan": (scan, 1),
    "functions": (functions, 2),
    "a weight behind a chain": (weight_behind_a_chain, 2),
}


def converted(proto: onnx.ModelProto, folder: Path, passes: str = RECIPE) -> ConvertResult:
    onnx.save(proto, folder / "in.onnx")
    return convert(folder / "in.onnx", folder / "out.onnx", passes=passes, verify="full")


@pytest.mark.parametrize("name", CASES)
def test_every_site_is_quantized(name: str, tmp_path: Path) -> None:
    make, sites = CASES[name]
    proto = make()
    result = converted(proto, tmp_path)
    assert not result.report.rolled_back
    found = Counter(each.op_type for each in result.model.graph.all_nodes())
    assert found["LowBitMatMul"] == sites
    assert not found["MatMul"]
    assert result.report.total is not None
    assert result.report.total.cosine > 0.999
    for old, new in zip(proto.graph.output, result.model.graph.outputs, strict=True):
        assert (old.name, old.type.tensor_type.elem_type) == (new.name, int(new.dtype or 0))
    written = ir.load(tmp_path / "out.onnx")
    assert "unused" not in written.graph.initializers


@pytest.mark.parametrize("opset", [18, 23])
def test_canonicalize_leaves_a_converted_model_alone(opset: int, tmp_path: Path) -> None:
    """The functions of bitfold's operators stay functions, whatever opset is around them."""
    first = converted(mlp(opset), tmp_path, "quantize{weights=int8 group=32}, lower").model
    again, report = Pipeline("canonicalize", verify="full", strict=True).run(first)
    assert list(again.functions) == list(first.functions)
    assert again.graph.opset_imports[""] == 23
    assert sum(each.op_type == "LowBitMatMul" for each in again.graph) == 2
    feeds = {"x": np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32)}
    expected, found = open_session(first).run(feeds)["y"], open_session(again).run(feeds)["y"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert not report.rolled_back
