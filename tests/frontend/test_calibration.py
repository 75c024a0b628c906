"""``--calibration``: statistics come from what it gives, in every form it takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner

from bitfold.frontend.cli.main import cli
from bitfold.frontend.feeds import load_feeds
from bitfold.models.tiny import TINY, sample_feeds
from bitfold.runtime.errors import CalibrationError

RECIPE = "canonicalize, quantize{weights=int4 acts=none method=gptq}, lower"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "bert.onnx"
    ir.save(TINY["bert"](0), path)
    return path


def convert(model: Path, name: str, *options: str) -> dict[str, np.ndarray]:
    """The constants of the result."""
    out = model.with_name(name)
    arguments = ["convert", str(model), "-o", str(out), "--passes", RECIPE, *options]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    values = ir.load(out).graph.initializers.values()
    return {str(value.name): value.const_value.numpy() for value in values}


def test_a_folder_and_files_are_the_same(model: Path) -> None:
    folder = model.parent / "inputs"
    folder.mkdir()
    files = [folder / f"{index}.npz" for index in range(3)]
    for index, file in enumerate(files):
        np.savez(file, **sample_feeds("bert", index))
    one = convert(model, "a.onnx", "--calibration", str(folder))
    each = [part for file in files for part in ("--calibration", str(file))]
    other = convert(model, "b.onnx", *each)
    fewer = convert(model, "c.onnx", "--calibration", str(files[0]))
    assert one.keys() == other.keys() == fewer.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one)
    assert not all(np.array_equal(one[name], fewer[name]) for name in one)


def test_an_empty_folder(model: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(CalibrationError, match=r"expected a folder of .npz files"):
        load_feeds(empty, model)


def test_inputs_that_do_not_fit(model: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.npz"
    np.savez(wrong, pixels=np.zeros((1, 3), np.float32))
    out = tmp_path / "out.onnx"
    arguments = ["convert", str(model), "-o", str(out), "--calibration", str(wrong)]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 7
    assert "calibration sample 0: expected inputs" in done.output
    assert not out.exists()
