"""Results on disk come back as they were, or not at all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from bitfold.passes.core.plain_data import from_plain, to_plain
from bitfold.passes.core.store import Store


@dataclass(frozen=True)
class Leaf:
    name: str
    array: np.ndarray
    factor: float = 1.0


@dataclass(frozen=True)
class Tree:
    leaf: Leaf
    more: Leaf | None
    sizes: tuple[int, ...]


CLASSES = (Leaf, Tree)
RNG = np.random.default_rng(0)
ARRAYS = [
    RNG.standard_normal((3, 5)).astype(ml_dtypes.bfloat16),
    RNG.standard_normal((2, 2)).astype(ml_dtypes.float8_e4m3fn),
    RNG.integers(0, 256, (4, 7), np.uint8),
    RNG.standard_normal((1, 3)),
    np.zeros((0, 3), np.float32),
    np.array(2.5, np.float32),
    np.asfortranarray(RNG.standard_normal((4, 3)).astype(np.float32)),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype}{array.shape}")
def test_there_and_back(tmp_path: Path, array: np.ndarray) -> None:
    value = (7, Tree(Leaf("a", ARRAYS[2]), Leaf("b", array, np.float32(0.1)), (1, 2)))
    notes: list[str] = []
    Store(tmp_path / "new").put("key", value, notes.append)
    number, found = Store(tmp_path / "new").get("key", CLASSES, notes.append)
    assert (number, found.sizes, found.leaf.name) == (7, (1, 2), "a")
    assert found.more.factor == np.float32(0.1)
    assert found.more.array.dtype == array.dtype
    assert found.more.array.flags.aligned
    np.testing.assert_array_equal(found.more.array, array)
    assert Store(tmp_path / "new").get("other key", CLASSES, notes.append) is None
    assert not notes


@pytest.mark.parametrize("value", [None, True, 3, 0.1, float("inf"), "text", (1, (2, "x"))])
def test_plain_values(value: Any) -> None:
    assert from_plain(to_plain(value), ()) == value


def test_only_what_is_plain() -> None:
    with pytest.raises(TypeError, match="expected dataclasses"):
        to_plain({"a": object()})
    with pytest.raises(KeyError, match="Leaf"):
        from_plain(to_plain(Leaf("a", ARRAYS[3])), (Tree,))


def written(folder: Path) -> tuple[Store, Path]:
    store = Store(folder)
    store.put("key", (1, Leaf("a", ARRAYS[2])), lambda text: None)
    (path,) = folder.iterdir()
    return store, path


@pytest.mark.parametrize("place", [0, 30, 80, -1])
def test_damage_is_noted_and_passed_over(tmp_path: Path, place: int) -> None:
    store, path = written(tmp_path)
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    notes: list[str] = []
    assert store.get("key", CLASSES, notes.append) is None
    assert "damaged" in notes[0]
    store.put("key", 5, notes.append)
    assert store.get("key", (), notes.append) == 5


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x04K\x01.", b"\n\n\n"])
def test_files_of_others(tmp_path: Path, content: bytes) -> None:
    store, path = written(tmp_path)
    path.write_bytes(content)
    notes: list[str] = []
    assert store.get("key", CLASSES, notes.append) is None
    assert len(notes) == 1


def test_a_result_in_another_ones_place(tmp_path: Path) -> None:
    store, path = written(tmp_path)
    store.put("other", 3, lambda text: None)
    (other,) = set(tmp_path.iterdir()) - {path}
    other.write_bytes(path.read_bytes())
    notes: list[str] = []
    assert store.get("other", CLASSES, notes.append) is None
    assert "another key" in notes[0]
    assert store.get("key", (Tree,), notes.append) is None
    assert "no such result" in notes[1]


def test_a_full_disk_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    store, _ = written(tmp_path)
    monkeypatch.setattr(Path, "write_bytes", full)
    notes: list[str] = []
    store.put("more", 1, notes.append)
    store.put("yet more", 1, notes.append)
    assert len(notes) == 1
    assert "No space left on device" in notes[0]
    assert len(list(tmp_path.iterdir())) == 1
    assert store.get("key", CLASSES, notes.append) is not None


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    notes: list[str] = []
    store = Store(tmp_path / "file" / "cache")
    assert store.get("key", (), notes.append) is None
    store.put("key", 1, notes.append)
    assert "going on without it" in notes[-1]
