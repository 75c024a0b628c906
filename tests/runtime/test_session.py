"""Sessions: loading, running, and refusing with one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper
from support.language_models import write_attention_model, write_llama

from bitfold.runtime.errors import CalibrationError, ModelError, UnsupportedError
from bitfold.runtime.model_header import read_header
from bitfold.runtime.session import Session


def write_double(path: Path, domain: str = "") -> Path:
    """y = x + x; with a domain, through a local function of that domain."""
    opsets = [helper.make_opsetid("", 21)]
    add = helper.make_node("Add", ["x", "x"], ["y"])
    functions = []
    if domain:
        opsets.append(helper.make_opsetid(domain, 1))
        functions = [helper.make_function(domain, "Double", ["x"], ["y"], [add], opsets[:1])]
        add = helper.make_node("Double", ["x"], ["y"], domain=domain)
    graph = helper.make_graph(
        [add],
        "double",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 3])],
    )
    model = helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=10)
    helper.set_model_props(model, {"colour": "grün"})
    onnx.save(model, path)
    return path


def test_run_returns_outputs_by_name(tmp_path: Path) -> None:
    session = Session(write_double(tmp_path / "double.onnx"), threads=1)
    result = session.run({"x": np.ones((2, 3), np.float32)})
    np.testing.assert_array_equal(result["y"], np.full((2, 3), 2, np.float32))
    assert session.inputs[0].name == "x"
    assert session.inputs[0].shape == ("n", 3)
    assert session.inputs[0].dtype == np.float32
    assert session.metadata == {"colour": "grün"}


@pytest.mark.parametrize(
    ("feeds", "said"),
    [
        ({}, "missing ['x']"),
        ({"x": np.ones((1, 3), np.float32), "z": np.ones(1)}, "unknown ['z']"),
        ({"x": np.ones((1, 3))}, "expected float32, found float64"),
        ({"x": np.ones((1, 4), np.float32)}, "found [1, 4]"),
        ({"x": np.ones(3, np.float32)}, "found [3]"),
    ],
)
def test_feeds_that_do_not_fit(tmp_path: Path, feeds: dict[str, np.ndarray], said: str) -> None:
    session = Session(write_double(tmp_path / "double.onnx"), threads=1)
    with pytest.raises(CalibrationError) as caught:
        session.run(feeds)
    assert said in str(caught.value)


def test_unknown_output(tmp_path: Path) -> None:
    session = Session(write_double(tmp_path / "double.onnx"), threads=1)
    with pytest.raises(ModelError, match="nothing"):
        session.run({"x": np.ones((1, 3), np.float32)}, ["nothing"])


def test_header_agrees_with_onnx(tmp_path: Path) -> None:
    path = write_attention_model(tmp_path / "a.onnx", shared=True)
    model = onnx.load(path)
    header = read_header(path)
    assert header.opsets == {entry.domain: entry.version for entry in model.opset_import}
    assert header.metadata == {entry.key: entry.value for entry in model.metadata_props}


def test_broken_files_are_refused_in_one_line(tmp_path: Path) -> None:
    whole = write_llama(tmp_path / "llama.onnx").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(whole[:1000])
    (tmp_path / "text.onnx").write_text("this is no model")
    (tmp_path / "empty.onnx").write_bytes(b"")
    for name in ("cut.onnx", "text.onnx", "empty.onnx", "absent.onnx", "."):
        with pytest.raises(ModelError) as caught:
            Session(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_what_ort_refuses_is_explained(tmp_path: Path) -> None:
    path = write_double(tmp_path / "double.onnx")
    model = onnx.load(path)
    model.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(model, path)
    with pytest.raises((ModelError, UnsupportedError)) as caught:
        Session(path)
    assert "NoSuchOperator" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_threads_must_be_positive(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="found 0"):
        Session(write_double(tmp_path / "double.onnx"), threads=0)


def test_a_missing_library_warns_and_runs_the_bodies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    op_library = pytest.importorskip("bitfold.runtime.op_library")

    def refuse() -> Path:
        raise UnsupportedError("no library here")

    monkeypatch.setattr(op_library, "op_library_path", refuse)
    path = write_double(tmp_path / "double.onnx", domain="bitfold")
    with pytest.warns(RuntimeWarning, match="no library here"):
        session = Session(path, threads=1)
    assert not session.has_library
    result = session.run({"x": np.ones((1, 3), np.float32)})
    np.testing.assert_array_equal(result["y"], np.full((1, 3), 2, np.float32))


def test_no_warning_when_the_library_is_not_wanted(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    session = Session(write_double(tmp_path / "double.onnx", domain="bitfold"), library=False)
    assert not session.has_library
    assert len(recwarn) == 0


def test_session_agrees_with_plain_ort(tmp_path: Path) -> None:
    path = write_llama(tmp_path / "llama.onnx")
    feeds = {
        "input_ids": np.array([[3, 1, 4, 1, 5]]),
        "attention_mask": np.ones((1, 5), np.int64),
        "position_ids": np.arange(5)[None],
    }
    for layer in range(2):
        for kind in ("key", "value"):
            feeds[f"past_key_values.{layer}.{kind}"] = np.zeros((1, 2, 0, 8), np.float32)
    expected = ort.InferenceSession(str(path)).run(["logits"], feeds)[0]
    found = Session(path, threads=1).run(feeds)["logits"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
