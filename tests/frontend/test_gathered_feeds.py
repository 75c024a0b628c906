"""Calibration inputs from an iterator: read once, held on disk, and used as a list's are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from support.graphs import parse

from bitfold.frontend.convert import convert
from bitfold.frontend.gathered_feeds import gathered
from bitfold.passes.core.context import Feeds
from bitfold.runtime.errors import CalibrationError


def model() -> ir.Model:
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal((64, 64), np.float32) for name in "ab"}
    return parse(
        "g (float[n, 64] x) => (float[n, 64] y) { h = MatMul(x, a) r = Relu(h) y = MatMul(r, b) }",
        **weights,
    )


def samples() -> list[Feeds]:
    rng = np.random.default_rng(1)
    return [{"x": rng.standard_normal((40, 64), np.float32)} for _ in range(5)]


def stream(read: list[int]) -> Iterator[Feeds]:
    """Samples one by one, in one array that is filled anew, as loaders do."""
    buffer = np.empty((40, 64), np.float32)
    for number, each in enumerate(samples()):
        read.append(number)
        buffer[:] = each["x"]
        yield {"x": buffer}


def converted(path: Path, calibration: Any) -> bytes:
    recipe = "canonicalize, quantize{weights=int3 method=gptq}, lower"
    convert(model(), path, passes=recipe, calibration=calibration, verify="off", force=True)
    return path.read_bytes() + path.with_name(f"{path.name}.data").read_bytes()


def test_an_iterator_is_read_once_and_gives_what_a_list_gives(tmp_path: Path) -> None:
    read: list[int] = []
    path = tmp_path / "model.onnx"
    assert converted(path, stream(read)) == converted(path, samples())
    assert read == [0, 1, 2, 3, 4]
    assert converted(path, samples()[:2]) != converted(path, samples())


def test_what_an_iterator_gives_lies_on_disk() -> None:
    found = gathered(stream([]))
    assert all(isinstance(each["x"], np.memmap) for each in found)
    text = np.array(["ab", "c"], object)
    kept = gathered(iter([{"t": text, "n": np.array(3)}]))[0]
    np.testing.assert_array_equal(kept["t"], text)
    assert kept["n"] == 3
    listed = samples()
    assert gathered(listed) is listed


def test_nothing_or_something_else() -> None:
    with pytest.raises(CalibrationError, match="gave none"):
        gathered(iter(()))
    with pytest.raises(CalibrationError, match="sample 1: expected a dictionary"):
        gathered(iter([{"x": np.zeros(3)}, np.zeros(3)]))  # type: ignore[list-item]
