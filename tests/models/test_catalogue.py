from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from support.wheels import sha256, write_wheel

from bitfold.models import lee_background
from bitfold.models.cache import cache_folder
from bitfold.models.catalogue import DATA, MODELS, fetch, fetch_entry, find_entry
from bitfold.models.entry import DataEntry
from bitfold.runtime.errors import BitfoldError, ModelError, OutputError, UnsupportedError

CONTENT = b"some text"


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataEntry:
    """An entry whose wheel lies in a folder, the only place where pip looks."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    wheel = write_wheel(folder, "tinydata", "1.2", {"tinydata/text.txt": CONTENT})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("BITFOLD_CACHE", str(tmp_path / "cache"))
    return DataEntry(
        name="tiny-text",
        package="tinydata",
        version="1.2",
        member="tinydata/text.txt",
        package_sha256=sha256(wheel.read_bytes()),
        file_sha256=sha256(CONTENT),
        licence="Apache-2.0",
        description="a text",
        kind="text",
    )


def _cached() -> list[Path]:
    return [path for path in cache_folder().rglob("*") if path.is_file()]


def test_fetches_the_file(entry: DataEntry) -> None:
    seen: list[float] = []
    path = fetch_entry(entry, lambda text, fraction: seen.append(fraction))
    assert path.read_bytes() == CONTENT
    assert path.is_relative_to(cache_folder())
    assert seen == sorted(seen)
    assert seen[-1] == 1
    assert _cached() == [path]


def test_a_cached_file_needs_no_pip(entry: DataEntry, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fetch_entry(entry)
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    assert fetch_entry(entry) == path


def test_a_damaged_cache_is_fetched_again(entry: DataEntry) -> None:
    path = fetch_entry(entry)
    path.write_bytes(b"some tex?")
    assert fetch_entry(entry).read_bytes() == CONTENT


@pytest.mark.parametrize("field", ["package_sha256", "file_sha256"])
def test_another_hash_is_refused(entry: DataEntry, field: str) -> None:
    wrong = dataclasses.replace(entry, **{field: "0" * 64})
    with pytest.raises(ModelError, match=f"expected SHA-256 {'0' * 64}, found"):
        fetch_entry(wrong)
    assert _cached() == []


def test_a_package_that_is_not_there(entry: DataEntry) -> None:
    with pytest.raises(BitfoldError, match=r"could not download tinydata 9\.9") as caught:
        fetch_entry(dataclasses.replace(entry, version="9.9"))
    assert "network" in caught.value.hint
    assert _cached() == []


def test_a_member_that_is_not_there(entry: DataEntry) -> None:
    with pytest.raises(ModelError, match=r"does not hold tinydata/other\.txt"):
        fetch_entry(dataclasses.replace(entry, member="tinydata/other.txt"))


def test_a_cache_that_cannot_be_written(
    entry: DataEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("BITFOLD_CACHE", str(tmp_path / "file"))
    with pytest.raises(OutputError) as caught:
        fetch_entry(entry)
    assert "BITFOLD_CACHE" in caught.value.hint


def test_unknown_name() -> None:
    with pytest.raises(UnsupportedError) as caught:
        fetch("gpt-99")
    assert "smollm2-135m" in caught.value.hint


def test_entries_are_pinned_and_distinct() -> None:
    entries = [*MODELS, *DATA]
    assert len({entry.name for entry in entries}) == len(entries)
    for entry in entries:
        assert re.fullmatch("[0-9a-f]{64}", entry.package_sha256)
        assert re.fullmatch("[0-9a-f]{64}", entry.file_sha256)
        assert entry.version
        assert entry.licence
        assert find_entry(entry.name) is entry


def test_cache_folder_follows_the_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BITFOLD_CACHE", raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_folder() == Path("/x/bitfold")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "bitfold"
    monkeypatch.setenv("BITFOLD_CACHE", "~/elsewhere")
    assert cache_folder() == Path.home() / "elsewhere"


def test_text_parts_are_whole_characters(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes("aäb".encode())
    assert lee_background.read_text(path, slice(0, 2)) == "a"
    assert lee_background.read_text(path, slice(2, 4)) == "b"
