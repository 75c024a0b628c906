"""``bitfold.convert``: what it refuses, and that it leaves nothing half-done."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from support.graphs import parse
from support.language_models import CONFIG, write_llama, write_tokenizer
from support.tiny_gguf import write_gguf

import bitfold
from bitfold.frontend import canary
from bitfold.frontend.convert import ConvertResult
from bitfold.frontend.importers import import_model
from bitfold.models.entry import TASK_KEY
from bitfold.models.tiny import TINY
from bitfold.passes.core.metadata import SAMPLES
from bitfold.passes.core.recipe import parse_text
from bitfold.runtime.errors import ModelError, OutputError, UnsupportedError

QUANTIZE = "quantize{weights=int4 group=16}, lower"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "float").mkdir()
    write_tokenizer(tmp_path / "float", CONFIG.vocab)
    return write_llama(tmp_path / "float" / "llama.onnx")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "to").mkdir()
    return tmp_path / "to" / "m.onnx"


def relu() -> ir.Model:
    return parse("g (float[N] x) => (float[N] y) { y = Relu (x) }")


def test_what_does_not_load_is_not_published(
    model: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out.write_text("old")
    out.with_name("m.onnx.data").write_text("old data")
    opened: list[Path] = []

    def broken(path: Path, **_: object) -> None:
        bitfold.Session(path, library=False)
        opened.append(path)
        raise ModelError("it does not load")

    monkeypatch.setattr(canary, "Session", broken)
    with pytest.raises(ModelError, match="does not load"):
        bitfold.convert(model, out, passes=QUANTIZE, force=True)
    assert opened[0].name == out.name
    assert out.read_text() == "old"
    assert out.with_name("m.onnx.data").read_text() == "old data"
    assert len(list(out.parent.iterdir())) == 2
    bitfold.convert(model, out, passes=QUANTIZE, force=True, verify="off")
    assert len(opened) == 1


def test_no_warning_without_the_op_library(
    model: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BITFOLD_OP_LIBRARY", str(tmp_path / "absent.so"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bitfold.convert(model, out, passes=QUANTIZE)
    assert out.is_file()


def test_the_data_file_of_others_stays(model: Path, out: Path) -> None:
    data = out.with_name("m.onnx.data")
    data.write_text("precious")
    with pytest.raises(OutputError, match="data exists"):
        bitfold.convert(model, out, passes=QUANTIZE)
    assert data.read_text() == "precious"


def test_a_recipe_object_is_a_recipe(model: Path) -> None:
    result = bitfold.convert(model, recipe=parse_text(QUANTIZE))
    assert [entry.name for entry in result.report.passes] == ["quantize", "lower"]


def test_a_model_that_names_the_recipe_is_read_once(
    model: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bitfold.convert(model, out, passes=QUANTIZE, seed=3)
    read: list[Path] = []

    def counted(path: Path) -> ir.Model:
        read.append(Path(path))
        return import_model(path)

    for name in ("bitfold.frontend.convert", "bitfold.frontend.recipes"):
        monkeypatch.setattr(f"{name}.import_model", counted)
    result = bitfold.convert(model, recipe=str(out))
    assert read == [out, model]
    assert result.report.seed == 3


def test_reports_are_json(tmp_path: Path) -> None:
    bitfold.convert(relu(), passes="canonicalize", report=tmp_path / "r")
    text = (tmp_path / "r" / "report.json").read_text()

    def refuse(word: str) -> None:
        raise AssertionError(word)

    report = json.loads(text, parse_constant=refuse)
    assert report["total"]["sqnr_db"] is None
    (tmp_path / "r" / "report.json").unlink()
    (tmp_path / "r" / "report.json").mkdir()
    with pytest.raises(OutputError, match=r"report\.json"):
        bitfold.convert(relu(), passes="canonicalize", report=tmp_path / "r")


def test_another_models_tokenizer_stays(model: Path, out: Path) -> None:
    (out.parent / "tokenizer.json").write_text("another")
    with pytest.raises(OutputError, match="another model's") as raised:
        bitfold.convert(model, out, passes=QUANTIZE)
    assert "--force" not in raised.value.hint  # that would break the other model
    assert not out.exists()
    assert (out.parent / "tokenizer.json").read_text() == "another"
    bitfold.convert(model, out, passes=QUANTIZE, force=True)
    wanted = (model.parent / "tokenizer.json").read_bytes()
    assert (out.parent / "tokenizer.json").read_bytes() == wanted
    # The same model once more, to the same folder: that is its own tokenizer.
    bitfold.convert(model, out.with_name("again.onnx"), passes=QUANTIZE)


def test_a_sidecar_that_cannot_be_written(model: Path, out: Path) -> None:
    (out.parent / "tokenizer.json").mkdir()
    with pytest.raises(OutputError, match=r"tokenizer\.json"):
        bitfold.convert(model, out, passes=QUANTIZE, force=True)


def test_nothing_to_quantize_is_an_error(model: Path, out: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"no matrix product") as caught:
        bitfold.convert(relu(), out, preset="w4a8")
    assert caught.value.hint.startswith("use --preset float")
    with pytest.raises(UnsupportedError, match=r"excluded by the recipe \(\d+\)") as caught:
        bitfold.convert(model, out, passes=QUANTIZE, exclude=["*"], report=tmp_path / "r")
    assert caught.value.hint.startswith("exclude fewer sites")
    assert list(out.parent.iterdir()) == []
    assert json.loads((tmp_path / "r" / "report.json").read_text())["passes"][0]["skips"]
    bitfold.convert(relu(), out, preset="float")
    assert out.is_file()


def test_a_low_bit_model_is_not_converted_again(model: Path, out: Path) -> None:
    bitfold.convert(model, out, passes=QUANTIZE)
    with pytest.raises(UnsupportedError, match="already low-bit"):
        bitfold.convert(out, out.with_name("b.onnx"), preset="w8a8")
    # Without a quantize pass it is graph surgery like any other.
    bitfold.convert(out, out.with_name("c.onnx"), passes="fuse-swiglu, lower")
    assert out.with_name("c.onnx").is_file()


@pytest.mark.parametrize("name", TINY)
def test_every_tiny_model_converts(name: str, out: Path) -> None:
    result = bitfold.convert(TINY[name](0), out, preset="w8a8")
    assert any(node.op_type.startswith("LowBit") for node in result.model.graph)


def test_a_gguf_file_brings_its_tokenizer(tmp_path: Path, out: Path) -> None:
    source = write_gguf(tmp_path / "m.gguf")
    bitfold.convert(source, out, passes="quantize{weights=int4 group=16}")
    assert (out.parent / "tokenizer_config.json").is_file()


def convolution(folder: Path) -> Path:
    """A convolution whose bias takes up what rounding its weight loses."""
    model = parse("g (float[N, 32, 9, 9] x) => (float[N, 32, 7, 7] y) { y = Conv (x, w) }")
    array = np.random.default_rng(0).normal(size=(32, 32, 3, 3)).astype(np.float32)
    weight = ir.Value(name="w", const_value=ir.tensor(array))
    weight.dtype, weight.shape = ir.DataType.FLOAT, ir.Shape(array.shape)
    model.graph.node(0).replace_input_with(1, weight)
    model.graph.register_initializer(weight)
    ir.save(model, folder / "conv.onnx")
    return folder / "conv.onnx"


def images(seed: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.normal(1, 1, (2, 32, 9, 9)).astype(np.float32)}]


def written(path: Path, **options: Any) -> tuple[bytes, bytes, ConvertResult]:
    out = path.parent / "made" / "m.onnx"
    out.parent.mkdir(exist_ok=True)
    result = bitfold.convert(path, out, force=True, **options)
    return out.read_bytes(), out.with_name("m.onnx.data").read_bytes(), result


@pytest.mark.parametrize("given", [False, True])
def test_the_bytes_do_not_depend_on_how_much_is_verified(tmp_path: Path, given: bool) -> None:
    model = convolution(tmp_path)
    options: dict[str, Any] = {"preset": "w4a8", "samples": images(1) if given else ()}
    found = {level: written(model, verify=level, **options) for level in ("off", "fast", "full")}
    assert found["off"][:2] == found["fast"][:2] == found["full"][:2]
    notes = found["off"][2].report.passes[-2].notes
    assert "1 bias corrected for the mean error of the rounded weights" in notes


def test_language_models_are_not_run_without_verification(
    model: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*_: object, **__: object) -> None:
        raise AssertionError("run")

    monkeypatch.setattr("bitfold.frontend.text_samples.open_session", run)
    monkeypatch.setattr("bitfold.passes.core.stage.open_session", run)
    result = bitfold.convert(model, out, passes=QUANTIZE, verify="off")
    assert SAMPLES not in result.model.metadata_props


def test_a_replay_on_other_samples_is_told(tmp_path: Path) -> None:
    model = convolution(tmp_path)
    recorded = tmp_path / "recorded.onnx"
    first = bitfold.convert(model, recorded, preset="w4a8", samples=images(1))
    assert first.model.metadata_props[SAMPLES].startswith("given ")
    same = bitfold.convert(model, recipe=recorded, samples=images(1), verify="off")
    assert same.report.notes == []
    for samples in ((), images(2)):
        other = bitfold.convert(model, recipe=recorded, samples=samples)
        (note,) = other.report.notes
        assert "other samples than in the recorded conversion" in note
        assert ("(made up, there given " in note) == (not samples)
    made_up = tmp_path / "made_up.onnx"
    bitfold.convert(model, made_up, preset="w4a8")
    assert bitfold.convert(model, recipe=made_up).report.notes == []
    assert bitfold.convert(model, recipe=made_up, samples=images(1)).report.notes


def test_a_recorded_task_is_told_where_its_data_is_lacking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = convolution(tmp_path)
    loaded = ir.load(model)
    loaded.metadata_props[TASK_KEY] = "faces"
    ir.save(loaded, model)
    recorded = tmp_path / "recorded.onnx"
    monkeypatch.setattr("bitfold.frontend.real_samples.task_samples", lambda *_: images(1))
    bitfold.convert(model, recorded, preset="w4a8", verify="off")
    assert ir.load(recorded).metadata_props[SAMPLES] == "task faces"
    assert bitfold.convert(model, recipe=recorded).report.notes == []
    monkeypatch.setattr("bitfold.frontend.real_samples.task_samples", lambda *_: [])
    (note,) = bitfold.convert(model, recipe=recorded).report.notes
    assert "(made up, there task faces)" in note
