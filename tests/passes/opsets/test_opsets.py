"""Every operator that changed its meaning between opsets 6 and 23, before and after in ORT."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from support.graphs import apply, assert_same, run

from bitfold.passes.canonicalize.canonicalize import Canonicalize
from bitfold.passes.core.context import Context
from bitfold.passes.core.pipeline import Pipeline
from bitfold.passes.opsets.convert import CANONICAL, convert_opset
from bitfold.runtime.errors import ModelError, UnsupportedError

F = TensorProto.FLOAT


def made(op, opset, inputs, outputs=1, constants=None, dtype=F, shapes=True, **attributes):
    """A model of one node, its feeds, and constants as initializers."""
    constants = constants or {}
    names = [*inputs, *constants]
    node = helper.make_node(op, names, [f"y{i}" for i in range(outputs)], name="n", **attributes)
    infos = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape if shapes else None
        )
        for name, array in inputs.items()
    ]
    results = [helper.make_tensor_value_info(f"y{i}", dtype, None) for i in range(outputs)]
    weights = [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph([node], "g", infos, results, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=4)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


X = normal(2, 4, 6, 5)
CASES = {
    "slice": ("Slice", 9, {"x": X}, {"starts": [1, -3], "ends": [9, -1], "axes": [1, 2]}),
    "slice without axes": ("Slice", 9, {"x": X}, {"starts": [0, 1], "ends": [1, 3]}),
    "top-k": ("TopK", 9, {"x": X}, {"k": 2, "axis": 1}),
    "clip": ("Clip", 9, {"x": X}, {"min": -0.5, "max": 0.25}),
    "clip from below": ("Clip", 10, {"x": X}, {"min": 0.0}),
    "clip of nothing": ("Clip", 6, {"x": X}, {}),
    "pad": ("Pad", 10, {"x": X}, {"pads": [0, 0, 1, 2, 0, 0, 3, 0], "value": 0.5}),
    "pad reflecting": ("Pad", 9, {"x": X}, {"pads": [0, 0, 1, 1, 0, 0, 1, 1], "mode": "reflect"}),
    "upsample 7": ("Upsample", 8, {"x": X}, {"scales": [1.0, 1.0, 2.0, 3.0], "mode": "nearest"}),
    "upsample 9": ("Upsample", 9, {"x": X}, {"mode": "linear"}),
    "upsample nearest": ("Upsample", 9, {"x": X}, {"mode": "nearest"}),
    "resize 10": ("Resize", 10, {"x": X}, {"mode": "nearest"}),
    "resize 10 linear": ("Resize", 10, {"x": X}, {"mode": "linear"}),
    "resize 10 shrinking": ("Resize", 10, {"x": X}, {"mode": "nearest"}),
    "resize 10 both ways": ("Resize", 10, {"x": X}, {"mode": "nearest"}),
    "resize 10 not at all": ("Resize", 10, {"x": X}, {"mode": "nearest"}),
    "dropout": ("Dropout", 10, {"x": X}, {"ratio": 0.25}),
    "squeeze": ("Squeeze", 11, {"x": X[:1]}, {"axes": [0]}),
    "squeeze all": ("Squeeze", 12, {"x": X[:1, :1]}, {}),
    "unsqueeze": ("Unsqueeze", 12, {"x": X}, {"axes": [0, 3]}),
    "sum": ("ReduceSum", 12, {"x": X}, {"axes": [1, -1], "keepdims": 0}),
    "sum of all": ("ReduceSum", 9, {"x": X}, {}),
    "mean": ("ReduceMean", 17, {"x": X}, {"axes": [2]}),
    "norm": ("ReduceL2", 13, {"x": X}, {"axes": [2, 3], "keepdims": 0}),
    "split": ("Split", 12, {"x": X}, {"split": [1, 3], "axis": 1}),
    "split evenly": ("Split", 13, {"x": X}, {"axis": 1}),
    "softmax last": ("Softmax", 12, {"x": X}, {"axis": 3}),
    "softmax flattens": ("Softmax", 9, {"x": X}, {}),
    "softmax flattens at 2": ("LogSoftmax", 12, {"x": X}, {"axis": 2}),
    "softmax negative axis": ("Softmax", 11, {"x": X}, {"axis": -2}),
    "hardmax": ("Hardmax", 12, {"x": X}, {"axis": 1}),
    "grid bilinear": ("GridSample", 16, {"x": X, "g": np.tanh(normal(2, 3, 3, 2))}, {}),
    "grid bicubic": (
        "GridSample", 19, {"x": X, "g": np.tanh(normal(2, 3, 3, 2))}, {"mode": "bicubic"},
    ),
    "dft": ("DFT", 17, {"x": normal(2, 6, 4, 1)}, {}),
    "dft axis": ("DFT", 19, {"x": normal(2, 6, 4, 1)}, {"axis": 2, "onesided": 1}),
    "matrix product": ("Gemm", 9, {"a": normal(2, 3), "b": normal(3, 4), "c": normal(4)}, {}),
}  # fmt: skip
CONSTANTS = {
    "upsample 9": {"scales": np.array([1, 1, 2, 2], np.float32)},
    "upsample nearest": {"scales": np.array([1, 1, 1.5, 2], np.float32)},
    "resize 10": {"scales": np.array([1, 1, 2, 1.5], np.float32)},
    "resize 10 linear": {"scales": np.array([1, 1, 2, 1.5], np.float32)},
    "resize 10 shrinking": {"scales": np.array([1, 1, 0.5, 0.6], np.float32)},
    "resize 10 both ways": {"scales": np.array([1, 1, 0.6, 1.7], np.float32)},
    "resize 10 not at all": {"scales": np.ones(4, np.float32)},
}
OUTPUTS = {"top-k": 2, "split": 2, "split evenly": 2}


@pytest.mark.parametrize("shapes", [True, False], ids=["shapes", "no shapes"])
@pytest.mark.parametrize("name", CASES)
def test_conversion_keeps_the_outputs(name, shapes):
    op, opset, feeds, attributes = CASES[name]
    outputs = OUTPUTS.get(name, 1)
    proto = made(op, opset, feeds, outputs, CONSTANTS.get(name), shapes=shapes, **attributes)
    if name == "top-k":
        proto.graph.output[1].type.tensor_type.elem_type = TensorProto.INT64
    model = ir.from_proto(proto)
    before = run(model, feeds)
    assert convert_opset(model, CANONICAL) == opset
    assert model.opset_imports[""] == CANONICAL
    assert_same(before, run(model, feeds), 1e-6)
    if shapes:
        onnx.checker.check_model(ir.to_proto(model))
    apply(Canonicalize(), model)
    assert_same(before, run(model, feeds), 1e-6)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_scales_of_opset_10_that_only_the_run_knows(mode):
    """Rounding follows each axis's scale: the graph must not settle it ahead."""
    feeds = {"x": X, "scales": np.ones(4, np.float32)}
    proto = made("Resize", 10, feeds, mode=mode)
    original, converted = ir.from_proto(proto), ir.from_proto(proto)
    apply(Canonicalize(), converted)
    for height, width in ((0.6, 0.6), (1.7, 2.0), (0.45, 1.7), (1.3, 0.7)):
        feeds["scales"] = np.array([1, 1, height, width], np.float32)
        assert_same(run(original, feeds), run(converted, feeds), 1e-6)


def test_upsample_with_scales_that_only_the_run_knows():
    """It only enlarges: one Resize will do."""
    feeds = {"x": X, "scales": np.array([1, 1, 2, 1.5], np.float32)}
    model = ir.from_proto(made("Upsample", 9, feeds, mode="nearest"))
    before = run(model, feeds)
    convert_opset(model, CANONICAL)
    assert_same(before, run(model, feeds), 1e-6)
    assert [node.op_type for node in model.graph] == ["Resize"]


def test_scatter_and_group_norm():
    indices = np.array([[0, 1, 1]], np.int64)
    feeds = {"x": normal(3, 3), "i": indices, "u": normal(1, 3, seed=1)}
    groups = {"x": X, "s": normal(2, seed=2), "b": normal(2, seed=3)}
    for op, opset, fed, attributes in (
        ("Scatter", 9, feeds, {"axis": 0}),
        ("GroupNormalization", 18, groups, {"num_groups": 2}),
    ):
        model = ir.from_proto(made(op, opset, fed, **attributes))
        before = run(model, fed)
        convert_opset(model, CANONICAL)
        assert_same(before, run(model, fed))
        assert op not in {node.op_type for node in model.graph} or op == "GroupNormalization"


def test_roi_align_keeps_its_pixels():
    """ORT has no kernel for the newest RoiAlign: onnx's own evaluator compares."""
    feeds = {
        "x": X,
        "rois": np.array([[0.5, 1, 3, 4], [1, 0, 2, 5]], np.float32),
        "at": np.array([0, 1], np.int64),
    }
    proto = made("RoiAlign", 10, feeds, output_height=2, output_width=3, sampling_ratio=2)
    expected = run(ir.from_proto(proto), feeds)["y0"]
    model = ir.from_proto(proto)
    convert_opset(model, CANONICAL)
    found = ReferenceEvaluator(ir.to_proto(model)).run(None, feeds)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_broadcasting_of_opset_6(axis):
    """ORT has no such operators any more: NumPy is the oracle."""
    shape = [1, 1, 1, 1]
    second = normal(*X.shape[axis : axis + 2], seed=4)
    shape[axis : axis + 2] = second.shape
    model = ir.from_proto(made("Mul", 6, {"x": X, "b": second}, broadcast=1, axis=axis))
    convert_opset(model, CANONICAL)
    found = run(model, {"x": X, "b": second})
    np.testing.assert_allclose(found["y0"], X * second.reshape(shape), rtol=1e-6)


def test_slopes_of_opset_6_belong_to_channels():
    slope = normal(4, seed=5)
    model = ir.from_proto(made("PRelu", 6, {"x": X, "s": slope}))
    convert_opset(model, CANONICAL)
    expected = np.where(X < 0, X * slope[:, None, None], X)
    np.testing.assert_allclose(run(model, {"x": X, "s": slope})["y0"], expected, rtol=1e-6)


def test_subgraphs_are_converted_too():
    x = normal(3, 4)
    body = helper.make_graph(
        [
            helper.make_node("Clip", ["x"], ["c"], max=0.1),
            helper.make_node("Softmax", ["c"], ["z"]),
        ],
        "body",
        [],
        [helper.make_tensor_value_info("z", F, None)],
    )
    other = helper.make_graph(
        [helper.make_node("Slice", ["x"], ["s"], starts=[0], ends=[2])],
        "other",
        [],
        [helper.make_tensor_value_info("s", F, None)],
    )
    graph = helper.make_graph(
        [helper.make_node("If", ["p"], ["y"], then_branch=body, else_branch=other)],
        "g",
        [
            helper.make_tensor_value_info("x", F, ["a", 4]),
            helper.make_tensor_value_info("p", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("y", F, None)],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=4)
    for flag in (True, False):
        model = ir.from_proto(proto)
        feeds = {"x": x, "p": np.array(flag)}
        before = run(model, feeds)
        apply(Canonicalize(), model)
        assert_same(before, run(model, feeds))


def test_functions_of_another_opset_are_converted_and_inlined():
    reference = helper.make_node("Softmax", ["c"], ["b"])
    reference.attribute.add(name="axis", ref_attr_name="at", type=onnx.AttributeProto.INT)
    body = [helper.make_node("Clip", ["a"], ["c"], min=0.0), reference]
    function = helper.make_function(
        "local", "Mine", ["a"], ["b"], body, [helper.make_opsetid("", 10)], ["at"]
    )
    node = helper.make_node("Mine", ["x"], ["y"], domain="local", at=1)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", F, X.shape)],
        [helper.make_tensor_value_info("y", F, X.shape)],
    )
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
    model = ir.from_proto(
        helper.make_model(graph, functions=[function], opset_imports=imports, ir_version=8)
    )
    apply(Canonicalize(), model)
    assert not model.functions
    flat = np.maximum(X, 0).reshape(2, -1)
    parts = np.exp(flat - flat.max(-1, keepdims=True))
    expected = (parts / parts.sum(-1, keepdims=True)).reshape(X.shape)
    np.testing.assert_allclose(run(model, {"x": X})["y"], expected, rtol=1e-5)


def test_functions_that_call_each_other_in_a_circle():
    def function(name, calls):
        body = [helper.make_node(calls, ["a"], ["b"], domain="local")]
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
        return helper.make_function("local", name, ["a"], ["b"], body, opsets)

    graph = helper.make_graph(
        [helper.make_node("A", ["x"], ["y"], domain="local")],
        "g",
        [helper.make_tensor_value_info("x", F, [2])],
        [helper.make_tensor_value_info("y", F, [2])],
    )
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
    functions = [function("A", "B"), function("B", "A")]
    proto = helper.make_model(graph, functions=functions, opset_imports=imports, ir_version=8)
    with pytest.raises(ModelError, match=r"functions cannot be inlined.*[Cc]ycl"):
        convert_opset(ir.from_proto(proto), CANONICAL)


@pytest.mark.parametrize("opset", [24, 25, 26])
def test_newer_opsets_that_need_nothing_new(opset):
    graph = [("Cast", {"to": TensorProto.FLOAT16, "round_mode": "up"}), ("Cast", {"to": F})]
    nodes, name = [], "x"
    for index, (op, attributes) in enumerate(graph):
        nodes.append(helper.make_node(op, [name], [f"v{index}"], **attributes))
        name = f"v{index}"
    nodes.append(helper.make_node("Swish", [name], ["y"], alpha=1.5))
    proto = helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("x", F, [2, 3])],
            [helper.make_tensor_value_info("y", F, [2, 3])],
        ),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=10,
    )
    model = ir.from_proto(proto)
    convert_opset(model, CANONICAL)
    x = normal(2, 3)
    half = x.astype(np.float16).astype(np.float32)
    expected = half / (1 + np.exp(-1.5 * half))
    np.testing.assert_allclose(run(model, {"x": x})["y"], expected, rtol=1e-5)


def test_newer_operators_are_named():
    proto = made("CumProd", 26, {"x": X}, constants={"axis": np.array(1, np.int64)})
    with pytest.raises(UnsupportedError, match=r"node n \(CumProd\) of opset 26 .* does not exist"):
        convert_opset(ir.from_proto(proto), CANONICAL)


@pytest.mark.parametrize(
    ("op", "opset", "attributes", "kind", "message"),
    [
        ("Slice", 9, {"starts": [0]}, ModelError, "starts and ends"),
        ("Pad", 9, {"pads": 3}, ModelError, "pads to be of type INTS"),
        ("TopK", 9, {}, ModelError, "lacks its attribute k"),
    ],
)
def test_attributes_that_are_missing_or_of_another_type(op, opset, attributes, kind, message):
    with pytest.raises(kind, match=message):
        convert_opset(ir.from_proto(made(op, opset, {"x": X}, **attributes)), CANONICAL)


def test_statistics_per_element_are_refused():
    constants = {name: np.ones(4, np.float32) for name in ("s", "b", "m", "v")}
    proto = made("BatchNormalization", 8, {"x": X}, constants=constants, spatial=0)
    with pytest.raises(UnsupportedError, match=r"node n \(BatchNormalization\).*spatial=0"):
        convert_opset(ir.from_proto(proto), CANONICAL)


def test_operators_without_a_newer_kernel_keep_the_model_at_an_older_opset():
    """Detection models: everything else is canonicalized all the same."""
    feeds = {
        "x": X,
        "rois": np.array([[0.5, 1, 3, 4]], np.float32),
        "at": np.zeros(1, np.int64),
    }
    proto = made("RoiAlign", 11, feeds, output_height=2, output_width=2)
    proto.graph.node.insert(0, helper.make_node("Clip", ["x", "low"], ["c"], name="clip"))
    proto.graph.node[1].input[0] = "c"
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((), np.float32), "low"))
    with Context([feeds]) as context:
        result, report = Pipeline("canonicalize", context, verify="full", strict=True).run(
            ir.from_proto(proto)
        )
    assert result.graph.opset_imports[""] == 21
    notes = report.passes[0].notes
    assert "opset 11 converted to 21" in notes
    assert any("runs RoiAlign" in note for note in notes)
