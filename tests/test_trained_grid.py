"""Classifiers trained to binary and ternary weights on real digits compile with no error."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from support import straight_through
from support.graphs import census

import bitfold
from bitfold.models.catalogue import fetch
from bitfold.models.digits import EVALUATION, read_digits
from bitfold.runtime.errors import BitfoldError
from bitfold.runtime.session import Session

pytestmark = pytest.mark.slow

LOSSLESS = "canonicalize, quantize{lossless=only acts=none}, lower"


@pytest.fixture(scope="module")
def digits() -> Path:
    try:
        return fetch("digits")
    except BitfoldError as error:
        if "could not download" in str(error):
            pytest.skip(str(error))
        raise


@pytest.fixture(scope="module", params=["binary", "ternary"])
def case(
    request: pytest.FixtureRequest, digits: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """The levels, and the float model that was trained to them, in a process of one thread."""
    path = tmp_path_factory.mktemp(request.param) / "float.onnx"
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    environment = {**os.environ, **threads, "PYTHONPATH": os.pathsep.join(sys.path)}
    program = [sys.executable, str(straight_through.__file__), str(digits), request.param]
    subprocess.run([*program, str(path)], check=True, env=environment)
    return request.param, path


def size_of(path: Path) -> int:
    data = path.with_name(f"{path.name}.data")
    return path.stat().st_size + (data.stat().st_size if data.exists() else 0)


def logits(path: Path, images: np.ndarray) -> np.ndarray:
    return Session(path).run({"x": images})["logits"]


@pytest.mark.parametrize("target", ["native", "ort", "portable"])
def test_compiles_with_no_error(
    case: tuple[str, Path], digits: Path, target: str, tmp_path: Path
) -> None:
    levels, before = case
    images, classes = read_digits(digits, EVALUATION)
    after = tmp_path / "low.onnx"
    result = bitfold.convert(before, after, passes=LOSSLESS, target=target)
    expected, found = logits(before, images), logits(after, images)
    assert (expected.argmax(1) == classes).mean() > 0.85  # it has learned, and has much to lose
    assert np.array_equal(found.argmax(1), expected.argmax(1))
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
    sites = result.report.passes[1].sites
    assert [site.scheme.split()[0] for site in sites] == [levels] * 3
    if target == "native":
        assert census(ir.load(after)) == {"LowBitMatMul": 3}
        assert size_of(before) > 10 * size_of(after)


def test_the_default_preset_keeps_the_grid_and_nearly_every_digit(
    case: tuple[str, Path], digits: Path, tmp_path: Path
) -> None:
    """Its inputs are rounded to 8 bits: a tie may fall the other way."""
    levels, before = case
    images, _ = read_digits(digits, EVALUATION)
    after = tmp_path / "low.onnx"
    result = bitfold.convert(before, after)
    assert all(site.scheme.startswith(levels) for site in result.report.passes[-2].sites)
    same = logits(before, images).argmax(1) == logits(after, images).argmax(1)
    assert (~same).sum() <= 2
    assert size_of(before) > 10 * size_of(after)


def test_nothing_to_keep_is_no_result(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    layers = [(rng.standard_normal((64, 64)).astype(np.float32), np.zeros(64, np.float32))]
    with pytest.raises(BitfoldError, match="grid"):
        bitfold.convert(straight_through.classifier(layers), tmp_path / "low.onnx", passes=LOSSLESS)
