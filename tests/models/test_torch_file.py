"""Checkpoints that PyTorch wrote are read without it; hostile ones are refused and run nothing."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitfold.models.torch_file import read_torch_file
from bitfold.models.torch_pickle import Call, Global, read_pickle
from bitfold.runtime.errors import BitfoldError, UnsupportedError

CHECKPOINTS = Path(__file__).parent.parent / "golden" / "checkpoints"
"""Written by `tests/golden/save_checkpoints.py`."""

WHOLE = np.arange(24, dtype=np.float32).reshape(4, 6) / 8
COUNT = np.arange(-3, 5)


@pytest.mark.parametrize("file", ["zip.pth", "legacy.pth"])
def test_reads_every_type_and_stride(file: str) -> None:
    expected: dict[str, np.ndarray] = {
        "whole": WHOLE,
        "transposed": WHOLE.T,
        "column": WHOLE[:, 2],
        "parameter": np.array([[1.5, -2.0], [0.25, 3.0]], np.float32),
        "scalar": np.array(7),
        "empty": np.zeros((0, 3), np.float32),
        "float64": COUNT.astype(np.float64),
        "float16": COUNT.astype(np.float16),
        "bfloat16": COUNT.astype(ml_dtypes.bfloat16),
        "int32": COUNT.astype(np.int32),
        "int16": COUNT.astype(np.int16),
        "uint8": np.arange(250, 256, dtype=np.uint8),
        "int8": COUNT.astype(np.int8),
        "bool": np.array([True, False, True]),
        "nested.bias": np.ones(3, np.float32),
    }
    found = read_torch_file(CHECKPOINTS / file)
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        np.testing.assert_array_equal(found[name], array, err_msg=name)
        assert not found[name].flags.writeable


def test_reads_a_modules_state() -> None:
    found = read_torch_file(CHECKPOINTS / "module.pth")
    names = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    assert list(found) == ["0.weight", "0.bias", *(f"1.{name}" for name in names)]
    np.testing.assert_array_equal(found["1.running_mean"], [4, 4])


def test_refuses_a_pickled_module() -> None:
    with pytest.raises(UnsupportedError, match="tensors do not need") as caught:
        read_torch_file(CHECKPOINTS / "pickled_module.pth")
    assert "state_dict" in caught.value.hint


class Touch:
    """Pickles to a call that makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_runs_nothing(tmp_path: Path) -> None:
    trap = pickle.dumps({"weight": Touch(tmp_path / "trap")}, protocol=2)
    call = read_pickle(io.BytesIO(trap))["weight"]
    assert isinstance(call, Call)
    assert call.function == Global(os.mkdir.__module__, "mkdir")
    archive = tmp_path / "trap.pth"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("trap/data.pkl", trap)
    with pytest.raises(UnsupportedError, match=r"weight: needs .*mkdir, expected a tensor"):
        read_torch_file(archive)
    assert not (tmp_path / "trap").exists()


Edit = Callable[[bytes], bytes]


@pytest.mark.parametrize(
    ("file", "edit", "message"),
    [
        ("legacy.pth", lambda data: b"", "cannot be read"),
        ("legacy.pth", lambda data: data[:-9], "outside the file"),
        ("legacy.pth", lambda data: data[:400], "pickle"),
        ("legacy.pth", lambda data: b"\x80\x02K\x01." + data, "expected a PyTorch checkpoint"),
        ("zip.pth", lambda data: data[:-30], "archive is broken"),
        ("zip.pth", lambda data: data[: len(data) // 2], "archive is broken"),
        ("zip.pth", lambda data: b"PK\x03\x04", "archive is broken"),
        ("zip.pth", lambda data: data.replace(b"data/0", b"data/x"), "no storage 0"),
        ("legacy.pth", lambda data: data.replace(b"\nFloatStorage", b"\nWhatStorage_"), "type"),
    ],
)
def test_refuses_broken_files(tmp_path: Path, file: str, edit: Edit, message: str) -> None:
    path = tmp_path / file
    path.write_bytes(edit((CHECKPOINTS / file).read_bytes()))
    with pytest.raises(BitfoldError, match=message):
        read_torch_file(path)


def test_refuses_compressed_members(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(CHECKPOINTS / "zip.pth") as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name), zipfile.ZIP_DEFLATED)
    with pytest.raises(UnsupportedError, match="compressed"):
        read_torch_file(path)


@pytest.mark.parametrize(
    "program",
    [
        b"\x80\x02.",  # stop on an empty stack
        b"\x80\x020.",  # pop
        b"\x80\x02}(K\x01u.",  # a key without a value
        b"\x80\x02}((K\x01tK\x02u.",  # a tuple as a key
        b"\x80\x02K\x01K\x02a.",  # append to a number
        b"\x80\x02h\x05.",  # read what was never memorized
        b"\x80\x02K\x01)R.",  # call a number
        b"\x80\x02(1.",  # pop_mark, which nothing needs
        b"\x80\x02\x8a\xff.",  # a number cut short
        b"\x80\x02X\xff\xff\xff\xffab.",  # a text of 4 GB in a file of ten bytes
        b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fab.",  # and one of 8 EB
        b"\xff\xff",
        b"",
    ],
)
def test_refuses_broken_pickles(program: bytes) -> None:
    with pytest.raises(BitfoldError):
        read_pickle(io.BytesIO(program))


def test_lengths_that_the_file_has_not_take_no_memory(tmp_path: Path) -> None:
    content = (CHECKPOINTS / "legacy.pth").read_bytes()
    path = tmp_path / "claims.pth"
    for opcode in (b"\x8d", b"\x8e"):  # texts and bytes with 8-byte lengths
        path.write_bytes(b"\x80\x04" + opcode + b"\xff" * 7 + b"\x0f" + content)
        with pytest.raises(BitfoldError):
            read_torch_file(path)


@pytest.mark.parametrize("file", ["zip.pth", "legacy.pth"])
@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_changed_bytes_never_crash(file: str, data: st.DataObject, tmp_path_factory: Any) -> None:
    content = bytearray((CHECKPOINTS / file).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("changed") / file
    path.write_bytes(content)
    try:
        tensors = read_torch_file(path)
    except BitfoldError:
        return
    for array in tensors.values():
        array.copy()  # every element lies in the file
