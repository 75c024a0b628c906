"""Arrays on disk: the same numbers, few files, and a word where the disk is full."""

from __future__ import annotations

import os
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from bitfold.passes.core import spool as module
from bitfold.passes.core.context import Context
from bitfold.passes.core.spool import Spool, let_go
from bitfold.runtime.errors import OutputError


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SPOOL_THRESHOLD", 16)
    monkeypatch.setattr(module, "FILE_SIZE", 256)


def arrays() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    kinds = [np.float32, np.float64, np.int8, np.bool_, ml_dtypes.bfloat16]
    shapes = [(5, 7), (1,), (3, 4, 5), (100, 2), (0, 3), ()]
    return [(rng.standard_normal(shape) * 9).astype(kind) for shape in shapes for kind in kinds]


@pytest.mark.parametrize("named", [False, True])
def test_the_same_numbers(small: None, tmp_path: Path, named: bool) -> None:
    spool, given = Spool(tmp_path if named else None), arrays()
    held = [spool.hold(array.T, "some") for array in given]
    spool.close()
    for array, found in zip(given, held, strict=True):
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array.T)
        assert isinstance(found, np.memmap) == (array.nbytes >= 16)
    assert bool(list(tmp_path.iterdir())) == named


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts descriptors there")
def test_many_arrays_take_few_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SPOOL_THRESHOLD", 16)
    before, spool = len(os.listdir("/proc/self/fd")), Spool()
    held = [spool.hold(np.full(64, each), "some") for each in range(3000)]
    assert len(os.listdir("/proc/self/fd")) - before < 5
    assert [int(each[5]) for each in held] == list(range(3000))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts descriptors there")
def test_files_last_as_long_as_their_arrays(small: None) -> None:
    def files() -> int:
        return len(os.listdir("/proc/self/fd"))

    before, spool = files(), Spool()
    held = [spool.hold(np.zeros(32), "some") for _ in range(8)]
    assert files() > before
    del held
    spool.close()
    assert files() == before


def test_let_go_and_read_again(small: None) -> None:
    with Context() as context:
        tensor = context.tensor(np.arange(2000.0), "w")
        let_go(tensor)
        np.testing.assert_array_equal(tensor.numpy(), np.arange(2000.0))
        let_go(ir.tensor(np.zeros(3)))
        let_go(None)


def test_a_full_disk(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.tempfile, "TemporaryFile", full)
    with pytest.raises(OutputError, match="cannot hold 'w' of 0 MiB: No space left"):
        Spool().hold(np.zeros(99), "w")
