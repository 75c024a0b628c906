"""CTranslate2's file on made-up content, whole and broken."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from support.small_encoders import write_ctranslate2

from bitfold.models.ctranslate2_file import CTranslate2File
from bitfold.runtime.errors import BitfoldError, ModelError, UnsupportedError

VARIABLES = {
    "a/weight": np.arange(12, dtype=np.float16).reshape(4, 3),
    "a/bias": np.linspace(-1, 1, 4, dtype=np.float32),
    "codes": np.array([[-5, 127]], np.int8),
    "heads": np.array(6, np.int16),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_ctranslate2(tmp_path / "model.bin", VARIABLES, {"tied/weight": "a/weight"})


def test_reads_what_was_written(path: Path) -> None:
    file = CTranslate2File(path)
    assert file.spec == "WhisperSpec"
    assert file.names == [*VARIABLES, "tied/weight"]
    for name, expected in VARIABLES.items():
        found = file.values(name)
        assert found.dtype == expected.dtype
        assert file.shape(name) == expected.shape
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(file.values("tied/weight"), VARIABLES["a/weight"])


def test_weights_are_rows_in_float32(path: Path) -> None:
    weight = CTranslate2File(path).weight("a/weight", slice(1, 3))
    assert weight.shape.numpy() == (2, 3)
    assert weight.numpy().dtype == np.float32
    np.testing.assert_array_equal(weight.numpy(), [[3, 4, 5], [6, 7, 8]])


def test_quantized_weights_are_refused(path: Path) -> None:
    with pytest.raises(UnsupportedError, match="expected floats in codes"):
        CTranslate2File(path).weight("codes")


def test_every_truncation_is_told(path: Path) -> None:
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError):
            CTranslate2File(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(ModelError, match="1 bytes follow"):
        CTranslate2File(path)


def test_no_changed_byte_crashes(path: Path) -> None:
    whole = path.read_bytes()
    for at in range(len(whole)):
        for change in (0x01, 0x80, 0xFF):
            broken = bytearray(whole)
            broken[at] ^= change
            path.write_bytes(bytes(broken))
            try:
                file = CTranslate2File(path)
            except BitfoldError:
                continue
            for name in file.names:
                file.values(name)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"version": 5}, "expected version 6 of CTranslate2's layout, found 5"),
        ({"aliases": {"x": "absent"}}, "alias x stands for absent"),
    ],
)
def test_layouts_that_are_not_read(path: Path, edit: dict, message: str) -> None:
    write_ctranslate2(path, VARIABLES, **edit)
    with pytest.raises(BitfoldError, match=message):
        CTranslate2File(path)


def test_sizes_that_contradict_the_shape(path: Path) -> None:
    raw = path.read_bytes()
    at = raw.index(struct.pack("<BI", 4, 24))
    path.write_bytes(raw[: at + 1] + struct.pack("<I", 25) + raw[at + 5 :])
    with pytest.raises(
        ModelError, match=r"a/weight of shape \[4, 3\]: expected 24 bytes, found 25"
    ):
        CTranslate2File(path)


def test_absent_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        CTranslate2File(tmp_path / "absent.bin")
