"""``bitfold.convert``: what it refuses, and that it leaves nothing half-done."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import onnx_ir as ir
import pytest
from support.graphs import parse
from support.language_models import CONFIG, write_llama, write_tokenizer
from support.tiny_gguf import write_gguf

import bitfold
from bitfold.frontend import canary
from bitfold.frontend.importers import import_model
from bitfold.models.tiny import TINY
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
    with pytest.raises(OutputError, match="another model's"):
        bitfold.convert(model, out, passes=QUANTIZE)
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
