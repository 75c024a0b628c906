"""Reading drawn words: drawing, CTC and the error rate by known answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from bitfold.frontend.emit import write_model
from bitfold.frontend.tasks.ocr import Ocr, draw, edit_distance, plain, texts
from bitfold.frontend.tasks.task import Setting
from bitfold.models.ppocr import CHARACTERS_KEY, decode, read_characters
from bitfold.runtime.errors import ModelError, UnsupportedError
from bitfold.runtime.session import Session


def test_decodes_ctc() -> None:
    characters = read_characters("a\nb\nc")
    assert characters == ["", "a", "b", "c", " "]
    classes = [[0, 1, 1, 0, 1, 2, 4, 4, 3], [0] * 9]
    assert decode(np.eye(5, dtype=np.float32)[classes], characters) == ["aab c", ""]
    with pytest.raises(ModelError, match="expected"):
        decode(np.zeros((1, 2, 6), np.float32), characters)


@pytest.mark.parametrize(
    ("found", "wanted", "distance"),
    [("", "", 0), ("", "abc", 3), ("abc", "", 3), ("kitten", "sitting", 3), ("ab", "ba", 2)],
)
def test_edit_distance(found: str, wanted: str, distance: int) -> None:
    assert edit_distance(found, wanted) == distance


def test_spaces_and_case_do_not_count() -> None:
    assert plain("V 2.0 \u00c9t\u00c9") == "v2.0\u00e9t\u00e9"


def test_draws_dark_on_light_and_the_same_each_time() -> None:
    pytest.importorskip("PIL")
    for index, text in enumerate(texts()):
        picture = draw(text, index)
        assert picture.shape[:3] == (1, 3, 48)
        assert picture.shape[3] >= 320
        assert picture.min() < 0 < picture.max()  # ink and paper
        assert np.abs(picture).max() <= 1
    np.testing.assert_array_equal(draw("compiler", 0), draw("compiler", 0))
    assert not np.array_equal(draw("compiler", 0), draw("compiler", 1))
    wide = draw("a line that needs a wider picture than most", 2)
    assert wide.shape[3] > 320


def reader(path: Path, answer: str, metadata: bool = True) -> Session:
    """A recognizer that reads the same in every picture: probabilities are a constant."""
    characters = sorted(set("".join(texts())) - {" "})
    classes = [0]
    for character in answer:
        classes += [characters.index(character) + 1, 0]
    rows = np.eye(len(characters) + 2, dtype=np.float32)[classes][None]
    x = ir.val("x", ir.DataType.FLOAT, ["n", 3, 48, "width"])
    table = ir.val("table", const_value=ir.tensor(rows, name="table"))
    zero = ir.node("ReduceSum", [ir.node("Abs", [x]).outputs[0]], {"keepdims": 0})
    nothing = ir.node("Mul", [zero.outputs[0], ir.val("none", const_value=ir.tensor(0.0))])
    add = ir.node("Add", [table, nothing.outputs[0]])
    add.outputs[0].name = "probabilities"
    add.outputs[0].dtype = ir.DataType.FLOAT
    nodes = [zero.inputs[0].producer(), zero, nothing, add]
    constants = [table, nothing.inputs[1]]
    graph = ir.Graph(
        [x], add.outputs, nodes=nodes, initializers=constants, opset_imports={"": 18}, name="g"
    )
    model = ir.Model(graph, ir_version=10)
    if metadata:
        model.metadata_props[CHARACTERS_KEY] = "\n".join(characters)
    write_model(model, path)
    return Session(path)


def test_scores_what_was_read(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    score = Ocr().score(reader(tmp_path / "r.onnx", "compiler"), Setting(limit=2))
    assert (score.value, score.samples, score.higher_is_better) == (0.5, 2, True)
    wrong = edit_distance("compiler", "quantize")
    assert score.details["character error rate"] == wrong / len("compilerquantize")


def test_refuses_other_models(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="no recognizer of text"):
        Ocr().score(reader(tmp_path / "r.onnx", "fox", metadata=False), Setting())
