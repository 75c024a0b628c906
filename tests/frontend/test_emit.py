"""Models on disk: self-contained, whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from bitfold.frontend.emit import ALIGNMENT, EXTERNAL_FROM, data_path, write_model
from bitfold.frontend.importers import import_model
from bitfold.runtime.errors import ModelError, OutputError
from bitfold.runtime.session import Session

SMALL, LARGE = 64, 4096
assert SMALL * 4 < EXTERNAL_FROM <= LARGE * 4


def external(tensor: TensorProto, folder: Path) -> TensorProto:
    """Move the tensor's bytes to a file in ``folder``."""
    name = f"{tensor.name}.bin"
    (folder / name).write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=name)
    return tensor


def weight(name: str, size: int, seed: int) -> TensorProto:
    array = np.random.default_rng(seed).standard_normal(size).astype(np.float32)
    return numpy_helper.from_array(array, name)


def source_model(folder: Path) -> Path:
    """All in files: small and large initializers, a subgraph's, and an attribute."""

    def branch(name: str, *tensors: TensorProto) -> onnx.GraphProto:
        nodes, last = [], "x"
        for tensor in tensors:
            nodes.append(helper.make_node("Mul", [last, tensor.name], [f"{name}_{tensor.name}"]))
            last = f"{name}_{tensor.name}"
        out = helper.make_tensor_value_info(last, TensorProto.FLOAT, [None])
        return helper.make_graph(nodes, name, [], [out], list(tensors))

    tensors = {
        name: external(weight(name, size, seed), folder)
        for seed, (name, size) in enumerate(
            {"s": SMALL, "l": LARGE, "sub_s": SMALL, "sub_l": LARGE, "constant": SMALL}.items()
        )
    }
    nodes = [
        helper.make_node("Constant", [], ["c"], value=tensors["constant"]),
        helper.make_node(
            "If",
            ["yes"],
            ["chosen"],
            then_branch=branch("then", tensors["sub_l"]),
            else_branch=branch("else", tensors["sub_s"]),
        ),
        helper.make_node("Add", ["x", "l"], ["a"]),
        helper.make_node("Concat", ["a", "c", "s", "chosen"], ["y"], axis=0),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [1]),
            helper.make_tensor_value_info("yes", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None])],
        [tensors["s"], tensors["l"]],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "source.onnx").write_bytes(model.SerializeToString())
    return folder / "source.onnx"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "from").mkdir()
    return source_model(tmp_path / "from")


def test_the_output_needs_no_file_of_the_source(source: Path, tmp_path: Path) -> None:
    feeds = [{"x": np.ones(1, np.float32), "yes": np.array(yes)} for yes in (True, False)]
    before = [Session(source).run(each)["y"] for each in feeds]
    model = import_model(source)
    tensors = {name: value.const_value for name, value in model.graph.initializers.items()}
    (tmp_path / "to").mkdir()
    path = tmp_path / "to" / "m.onnx"
    write_model(model, path)

    assert all(value.const_value is tensors[n] for n, value in model.graph.initializers.items())
    assert all(isinstance(tensor, ir.ExternalTensor) for tensor in tensors.values())
    for node in model.graph.all_nodes():
        if node.op_type == "Constant":
            assert isinstance(node.attributes["value"].value, ir.ExternalTensor)
    write_model(model, tmp_path / "to" / "again.onnx")

    for file in source.parent.iterdir():
        file.unlink()
    proto = onnx.load(path, load_external_data=False)
    places = {t.name: t.external_data[0].value for t in proto.graph.initializer if t.external_data}
    assert places == {"l": "m.onnx.data"}
    for each, expected in zip(feeds, before, strict=True):
        np.testing.assert_array_equal(Session(path).run(each)["y"], expected)
    names = {file.name for file in path.parent.iterdir()}
    assert names == {"m.onnx", "m.onnx.data", "again.onnx", "again.onnx.data"}
    assert data_path(path).read_bytes() == (tmp_path / "to" / "again.onnx.data").read_bytes()


def test_weights_are_aligned(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Concat", ["a", "b"], ["y"], axis=0)],
        "g",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None])],
        [weight("a", 1001, 0), weight("b", 1001, 1)],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    write_model(ir.from_proto(proto), tmp_path / "m.onnx")
    written = onnx.load(tmp_path / "m.onnx", load_external_data=False).graph.initializer
    offsets = [int(each.value) for t in written for each in t.external_data if each.key == "offset"]
    assert len(offsets) == 2
    assert offsets[1] > 0
    assert all(offset % ALIGNMENT == 0 for offset in offsets)
    both = [numpy_helper.to_array(each) for each in graph.initializer]
    np.testing.assert_array_equal(Session(tmp_path / "m.onnx").run({})["y"], np.concatenate(both))


def test_neither_file_is_replaced_without_force(source: Path, tmp_path: Path) -> None:
    path, model = tmp_path / "m.onnx", import_model(source)
    data_path(path).write_text("precious")
    with pytest.raises(OutputError, match=r"m\.onnx\.data exists"):
        write_model(model, path)
    assert data_path(path).read_text() == "precious"
    assert not path.exists()
    write_model(model, path, force=True)
    assert data_path(path).stat().st_size == LARGE * 4
    with pytest.raises(OutputError, match=r"m\.onnx exists"):
        write_model(model, path)
    data_path(path).unlink()
    data_path(path).mkdir()
    with pytest.raises(OutputError, match="folder"):
        write_model(model, path, force=True)


def test_a_failed_check_leaves_the_old_files(source: Path, tmp_path: Path) -> None:
    (tmp_path / "to").mkdir()
    path, model = tmp_path / "to" / "m.onnx", import_model(source)
    path.write_text("old")
    data_path(path).write_text("old data")

    def refuse(written: Path) -> None:
        assert written.name == path.name
        Session(written)
        raise ModelError("no")

    with pytest.raises(ModelError, match="no"):
        write_model(model, path, force=True, check=refuse)
    assert path.read_text() == "old"
    assert data_path(path).read_text() == "old data"
    assert len(list(path.parent.iterdir())) == 2


def test_a_full_disk_is_named(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "to").mkdir()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bitfold.frontend.emit.os.replace", full)
    with pytest.raises(OutputError, match="No space left"):
        write_model(import_model(source), tmp_path / "to" / "m.onnx")
    assert list((tmp_path / "to").iterdir()) == []


def test_a_failure_between_the_two_files_brings_both_old_ones_back(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model never stands beside another one's data, not even where Ctrl-C falls in between."""
    (tmp_path / "to").mkdir()
    path, model = tmp_path / "to" / "m.onnx", import_model(source)
    real, done = os.replace, []

    def replace(start: Path, to: Path) -> None:
        if Path(to) == path and not done:
            done.append(sorted(each.name for each in path.parent.iterdir() if each.is_file()))
            raise KeyboardInterrupt
        real(start, to)

    monkeypatch.setattr("bitfold.frontend.emit.os.replace", replace)
    with pytest.raises(KeyboardInterrupt):
        write_model(model, path)
    assert list(path.parent.iterdir()) == []
    path.write_text("old")
    data_path(path).write_text("old data")
    done.clear()
    with pytest.raises(KeyboardInterrupt):
        write_model(model, path, force=True)
    assert done == [["m.onnx.data"]]
    assert path.read_text() == "old"
    assert data_path(path).read_text() == "old data"
    write_model(model, path, force=True)
    assert data_path(path).stat().st_size == LARGE * 4
    assert len(list(path.parent.iterdir())) == 2


@pytest.mark.parametrize("name", ["o.txt", "o", "o.onnx.data", "o.ONNX"])
def test_the_output_is_an_onnx_file(name: str, source: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"expected a name that ends in \.onnx"):
        write_model(import_model(source), tmp_path / name)
    assert not (tmp_path / name).exists()
