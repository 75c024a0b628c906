from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from bitfold.frontend.convert import convert
from bitfold.frontend.importers import import_model
from bitfold.frontend.importers.onnx import load_model
from bitfold.runtime.errors import BitfoldError, ModelError, UnsupportedError
from bitfold.runtime.execution import open_session

WEIGHT = np.arange(12, dtype=np.float32).reshape(3, 4)


def _external(location: str = "w.data", **entries: object) -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3, 4])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": 64, "length": 48, **entries}.items():
        if value is not None:
            tensor.external_data.add(key=key, value=str(value))
    return tensor


def _proto(weight: TensorProto | None = None, opset: int = 18) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="mm")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(WEIGHT, "w") if weight is None else weight],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=min(8, opset)
    )


def _save(folder: Path, proto: onnx.ModelProto, data: bytes | None = None) -> Path:
    (folder / "m.onnx").write_bytes(proto.SerializeToString())
    if data is not None:
        (folder / "w.data").write_bytes(data)
    return folder / "m.onnx"


def _weight(model: ir.Model) -> np.ndarray:
    tensor = model.graph.initializers["w"].const_value
    assert tensor is not None
    return tensor.numpy()


@pytest.mark.parametrize("load", [load_model, import_model])
def test_all_kinds_of_source(tmp_path: Path, load: Callable[..., ir.Model]) -> None:
    path = _save(tmp_path, _proto())
    for source in (path, str(path), _proto(), ir.from_proto(_proto())):
        np.testing.assert_array_equal(_weight(load(source)), WEIGHT)


def test_a_model_is_passed_through() -> None:
    model = ir.from_proto(_proto())
    assert load_model(model) is model


@pytest.mark.parametrize("entries", [{}, {"length": None}])
def test_external_data_is_mapped(tmp_path: Path, entries: dict[str, None]) -> None:
    path = _save(tmp_path, _proto(_external(**entries)), b"\0" * 64 + WEIGHT.tobytes())
    model = load_model(path)
    tensor = model.graph.initializers["w"].const_value
    assert isinstance(tensor, ir.ExternalTensor)
    array = tensor.numpy()
    np.testing.assert_array_equal(array, WEIGHT)
    assert not array.flags.owndata


def test_external_data_may_lie_in_a_subfolder(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "w.data").write_bytes(b"\0" * 64 + WEIGHT.tobytes())
    path = _save(tmp_path, _proto(_external("sub/w.data")))
    np.testing.assert_array_equal(_weight(load_model(path)), WEIGHT)


def test_a_relative_path_still_finds_its_data_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _save(tmp_path, _proto(_external()), b"\0" * 64 + WEIGHT.tobytes())
    monkeypatch.chdir(tmp_path)
    model = load_model("m.onnx")
    monkeypatch.chdir("/")
    np.testing.assert_array_equal(_weight(model), WEIGHT)


def test_more_than_two_gibibytes(tmp_path: Path) -> None:
    rows = 3 * 2**28
    tensor = _external(offset=0, length=rows * 4)
    tensor.dims[:] = [3, rows // 3]
    path = _save(tmp_path, _proto(tensor))
    with (tmp_path / "w.data").open("wb") as file:
        file.truncate(rows * 4)  # sparse: takes no space
        file.seek(rows * 4 - 4)
        file.write(np.float32(7).tobytes())
    assert _weight(load_model(path))[2, -1] == 7


def test_weights_in_constant_nodes() -> None:
    proto = _proto()
    constant = helper.make_node("Constant", [], ["w"], value=proto.graph.initializer[0])
    proto.graph.ClearField("initializer")
    proto.graph.node.insert(0, constant)
    model = load_model(proto)
    np.testing.assert_array_equal(model.graph[0].attributes["value"].as_tensor().numpy(), WEIGHT)


@pytest.mark.parametrize("opset", [6, 9, 11, 13, 17, 21])
def test_opsets(opset: int) -> None:
    assert load_model(_proto(opset=opset)).opset_imports[""] == opset


@pytest.mark.parametrize(("opset", "hint"), [(5, "export"), (999, "onnx package")])
def test_opsets_out_of_range(opset: int, hint: str) -> None:
    with pytest.raises(UnsupportedError, match=f"opset {opset}") as caught:
        load_model(_proto(opset=opset))
    assert hint in caught.value.hint


def _attribute_external(proto: onnx.ModelProto) -> None:
    constant = helper.make_node("Constant", [], ["w"], name="c")
    constant.attribute.add(name="value", type=onnx.AttributeProto.TENSOR, t=_external("../x"))
    proto.graph.ClearField("initializer")
    proto.graph.node.insert(0, constant)


def _subgraph_external(proto: onnx.ModelProto) -> None:
    body = helper.make_graph(
        [helper.make_node("Identity", ["k"], ["out"])],
        "body",
        [],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [_external("../x")],
    )
    body.initializer[0].name = "k"
    node = helper.make_node("If", ["c"], ["z"], then_branch=body, else_branch=body)
    proto.graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
    proto.graph.node.append(node)


@pytest.mark.parametrize("change", [_attribute_external, _subgraph_external])
def test_external_data_is_checked_at_any_depth(
    tmp_path: Path, change: Callable[[onnx.ModelProto], None]
) -> None:
    proto = _proto()
    change(proto)
    with pytest.raises(ModelError, match="outside the model's folder"):
        load_model(_save(tmp_path, proto))


@pytest.mark.parametrize(
    "location", ["../w.data", "sub/../../w.data", "/etc/hostname", "C:\\w.data", "..\\w.data"]
)
def test_paths_that_leave_the_folder(tmp_path: Path, location: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "w.data").write_bytes(b"\0" * 200)
    with pytest.raises(ModelError, match="outside the model's folder"):
        load_model(_save(tmp_path / "in", _proto(_external(location))))


@pytest.mark.parametrize("link_folder", [False, True])
def test_links_that_leave_the_folder(tmp_path: Path, link_folder: bool) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "w.data").write_bytes(b"\0" * 200)
    link = tmp_path / "in" / ("sub" if link_folder else "w.data")
    link.symlink_to(tmp_path if link_folder else tmp_path / "w.data")
    location = "sub/w.data" if link_folder else "w.data"
    with pytest.raises(ModelError, match="outside the model's folder"):
        load_model(_save(tmp_path / "in", _proto(_external(location))))


@pytest.mark.parametrize(
    ("entries", "data", "message"),
    [
        ({}, None, "'w.data' is missing"),
        ({}, b"\0" * 111, "expected at least 112 bytes, found 111"),
        ({"length": None}, b"\0" * 111, "expected at least 112 bytes, found 111"),
        ({"length": 47}, b"\0" * 200, "expected 48 bytes of external data for its shape, found 47"),
        ({"length": 96}, b"\0" * 200, "expected 48 bytes of external data for its shape, found 96"),
        ({"offset": "-4"}, b"\0" * 200, "offset: expected a number, found '-4'"),
        ({"offset": "x"}, b"\0" * 200, "offset: expected a number, found 'x'"),
        ({"location": ""}, b"\0" * 200, "names no file"),
    ],
)
def test_broken_external_data(
    tmp_path: Path, entries: dict[str, object], data: bytes | None, message: str
) -> None:
    tensor = _external(**{"location": "w.data", **entries})  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="tensor w") as caught:
        load_model(_save(tmp_path, _proto(tensor), data))
    assert message in str(caught.value)


def test_a_proto_with_external_data_has_no_folder() -> None:
    with pytest.raises(ModelError, match="without a folder"):
        load_model(_proto(_external()))


def _typed(kind: int, dims: list[int], field: str, count: int) -> TensorProto:
    tensor = TensorProto(name="w", data_type=kind, dims=dims)
    getattr(tensor, field).extend([b"x"] * count if field == "string_data" else [0] * count)
    return tensor


def _raw(kind: int, dims: list[int], size: int) -> TensorProto:
    return TensorProto(name="w", data_type=kind, dims=dims, raw_data=b"\0" * size)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (_raw(TensorProto.FLOAT, [3, 4], 48), _raw(TensorProto.FLOAT, [3, 4], 24)),
        (_raw(TensorProto.INT4, [3, 3], 5), _raw(TensorProto.INT4, [3, 3], 9)),
        (_raw(TensorProto.FLOAT16, [], 2), _raw(TensorProto.FLOAT16, [], 4)),
        (_raw(TensorProto.INT64, [0, 4], 0), _raw(TensorProto.INT64, [0, 4], 8)),
        (
            _typed(TensorProto.FLOAT, [5], "float_data", 5),
            _typed(TensorProto.FLOAT, [5], "float_data", 4),
        ),
        (
            _typed(TensorProto.INT8, [5], "int32_data", 5),
            _typed(TensorProto.INT8, [5], "int32_data", 6),
        ),
        (
            _typed(TensorProto.UINT4, [5], "int32_data", 3),
            _typed(TensorProto.UINT4, [5], "int32_data", 5),
        ),
        (
            _typed(TensorProto.INT64, [2], "int64_data", 2),
            _typed(TensorProto.INT64, [2], "int32_data", 2),
        ),
        (
            _typed(TensorProto.STRING, [2], "string_data", 2),
            _typed(TensorProto.STRING, [2], "string_data", 1),
        ),
    ],
)
def test_sizes_must_fit_shapes(right: TensorProto, wrong: TensorProto) -> None:
    load_model(_proto(right))
    with pytest.raises(ModelError, match=r"tensor w: expected \d+ (bytes|values)"):
        load_model(_proto(wrong))


@pytest.mark.parametrize(
    ("tensor", "error", "message"),
    [
        (_raw(TensorProto.FLOAT, [-1], 4), ModelError, "negative dimension"),
        (_raw(0, [1], 4), ModelError, "no data type"),
        (_raw(200, [1], 4), UnsupportedError, "unknown data type 200"),
        (_raw(TensorProto.STRING, [1], 4), ModelError, "strings"),
    ],
)
def test_broken_tensors(tensor: TensorProto, error: type[BitfoldError], message: str) -> None:
    with pytest.raises(error, match=message):
        load_model(_proto(tensor))


def test_nan_in_weights_is_not_looked_for_here() -> None:
    tensor = numpy_helper.from_array(np.full((3, 4), np.nan, np.float32), "w")
    assert np.isnan(_weight(load_model(_proto(tensor)))).all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"\x00\x01\x02 garbage", "not an ONNX model"),
        (b"<html>404</html>", "not an ONNX model"),
        (onnx.ModelProto(ir_version=8).SerializeToString(), "has not got a graph"),
        (onnx.ModelProto(producer_name="x").SerializeToString(), "has not got an IR version"),
    ],
)
def test_files_that_are_no_model(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=message):
        load_model(tmp_path / "m.onnx")


def test_every_cut_of_a_file_is_a_model_error(tmp_path: Path) -> None:
    whole = _proto().SerializeToString()
    path = tmp_path / "m.onnx"
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(ModelError):
            load_model(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for load in (load_model, import_model):
        with pytest.raises(ModelError, match="no such file"):
            load(tmp_path / "m.onnx")
        with pytest.raises(ModelError, match="found a folder"):
            load(tmp_path)


def test_unknown_suffix(tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(b"x")
    with pytest.raises(UnsupportedError) as caught:
        import_model(tmp_path / "m.safetensors")
    assert ".gguf" in caught.value.hint


def test_a_value_that_nothing_defines() -> None:
    proto = _proto()
    proto.graph.node[0].input[1] = "ghost"
    with pytest.raises(ModelError, match=r"node 'mm' \(MatMul\) reads ghost"):
        load_model(proto)


def test_an_output_that_nothing_defines() -> None:
    proto = _proto()
    proto.graph.output[0].name = "ghost"
    with pytest.raises(ModelError, match="ghost"):
        load_model(proto)


def test_a_cycle() -> None:
    proto = _proto()
    proto.graph.node[0].input[0] = "back"
    proto.graph.node.append(helper.make_node("Relu", ["y"], ["back"]))
    with pytest.raises(ModelError, match="cycle"):
        load_model(proto)


def test_nodes_keep_their_order() -> None:
    proto = _proto()
    for name in ("d", "b", "c", "a"):
        proto.graph.node.append(helper.make_node("Relu", ["y"], [name], name=name))
    assert [node.name for node in load_model(proto).graph] == ["mm", "d", "b", "c", "a"]


def test_a_subgraph_may_read_outer_values() -> None:
    body = helper.make_graph(
        [helper.make_node("Relu", ["w"], ["out"])],
        "body",
        [],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
    )
    proto = _proto()
    proto.graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
    proto.graph.node.append(
        helper.make_node("If", ["c"], ["z"], then_branch=body, else_branch=body)
    )
    assert len(load_model(proto).graph) == 2


def test_a_function_body_is_checked(tmp_path: Path) -> None:
    constant = helper.make_node("Constant", [], ["k"])
    constant.attribute.add(name="value", type=onnx.AttributeProto.TENSOR, t=_external())
    body = [constant, helper.make_node("MatMul", ["a", "k"], ["b"])]
    opsets = [helper.make_opsetid("", 18)]
    proto = _proto()
    proto.functions.append(helper.make_function("local", "Mine", ["a"], ["b"], body, opsets))
    proto.opset_import.append(helper.make_opsetid("local", 1))
    path = _save(tmp_path, proto, b"\0" * 64 + WEIGHT.tobytes())
    function = next(iter(load_model(path).functions.values()))
    np.testing.assert_array_equal(function[0].attributes["value"].as_tensor().numpy(), WEIGHT)
    (tmp_path / "w.data").unlink()
    with pytest.raises(ModelError, match="is missing"):
        load_model(path)


def test_a_sparse_initializer() -> None:
    proto = _proto()
    values = numpy_helper.from_array(np.ones(1, np.float32), "s")
    indices = numpy_helper.from_array(np.zeros(1, np.int64), "i")
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [9]))
    with pytest.raises(UnsupportedError, match="sparse initializer s"):
        load_model(proto)


def _with_weight_input(ir_version: int) -> onnx.ModelProto:
    proto = _proto(opset=11)
    proto.ir_version = ir_version
    proto.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [3, 4]))
    return proto


@pytest.mark.parametrize("memory", [False, True])
def test_weights_that_had_to_be_inputs_become_constants(tmp_path: Path, memory: bool) -> None:
    source = ir.from_proto(_with_weight_input(3)) if memory else None
    model = load_model(source or _save(tmp_path, _with_weight_input(3)))
    assert [value.name for value in model.graph.inputs] == ["x"]
    np.testing.assert_array_equal(_weight(model), WEIGHT)
    onnx.checker.check_model(ir.to_proto(model))
    if source is not None:  # it stays as it was
        assert source.ir_version == 3
        assert [value.name for value in source.graph.inputs] == ["x", "w"]
    x = np.ones((2, 3), np.float32)
    np.testing.assert_allclose(open_session(model).run({"x": x})["y"], x @ WEIGHT)


def test_weights_that_may_be_overridden_stay_inputs(tmp_path: Path) -> None:
    model = load_model(_save(tmp_path, _with_weight_input(4)))
    assert [value.name for value in model.graph.inputs] == ["x", "w"]


def test_a_model_of_weight_inputs_is_converted(tmp_path: Path) -> None:
    result = convert(_save(tmp_path, _with_weight_input(3)), tmp_path / "out.onnx", preset="float")
    assert result.report.total is not None
    assert [value.name for value in result.model.graph.inputs] == ["x"]


def test_constants_have_the_shape_and_type_of_their_data() -> None:
    """What an old file says of a weight as an input may be something else, or free."""
    proto = _with_weight_input(3)
    proto.graph.input[-1].type.tensor_type.shape.dim[0].dim_param = "n"
    model = load_model(proto)
    value = model.graph.initializers["w"]
    assert value.shape == (3, 4)
    assert value.dtype == ir.DataType.FLOAT


def test_a_constant_without_its_tensor() -> None:
    proto = _proto()
    constant = helper.make_node("Constant", [], ["k"], name="c")
    constant.attribute.add(name="value", type=onnx.AttributeProto.TENSOR)
    proto.graph.node.insert(0, constant)
    with pytest.raises(ModelError, match="has no data type"):
        load_model(proto)


def test_the_first_cause_of_a_broken_message_is_told() -> None:
    proto = _proto()
    proto.graph.node.append(proto.graph.node[0])  # its output exists already
    with pytest.raises(ModelError, match="broken ONNX model") as caught:
        load_model(proto)
    assert "\n" not in str(caught.value)
    assert "_deserialize" not in str(caught.value)
