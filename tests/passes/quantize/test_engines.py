"""Quantized models are the same bytes, whoever does the work and however many they are."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from support.graphs import parse

from bitfold.frontend.convert import convert
from bitfold.models.tiny import TINY, sample_feeds
from bitfold.passes.core.context import Feeds
from bitfold.passes.quantize.gptq import ROWS

CASES = [
    ("wide", "rtn"),
    ("wide", "gptq"),
    ("wide", "gptq rank=2"),
    ("decoder", "gptq"),
    ("cnn", "gptq sequential=false"),
]


def wide() -> ir.Model:
    """Two weights side by side, then one alone, of so many rows that these are shared out."""
    rng = np.random.default_rng(0)
    shapes = {"a": (64, 48), "b": (64, 48), "c": (48, ROWS + 500)}
    weights = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    body = "p = MatMul(x, a) q = MatMul(x, b) r = Mul(p, q) y = MatMul(r, c)"
    return parse(f"g (float[n, 64] x) => (float[n, {ROWS + 500}] y) {{ {body} }}", **weights)


@cache
def samples(name: str) -> list[Feeds]:
    if name == "wide":
        rng = np.random.default_rng(1)
        return [{"x": rng.standard_normal((80, 64), np.float32)} for _ in range(2)]
    return [sample_feeds(name, 0), sample_feeds(name, 1)]


@cache
def written(folder: Path, name: str, method: str, engine: str, workers: int) -> bytes:
    path = folder / f"{name} {method} {engine} {workers}" / "model.onnx"
    path.parent.mkdir()
    convert(
        wide() if name == "wide" else TINY[name](1),
        path,
        passes=f"canonicalize, quantize{{weights=int4 method={method}}}, lower",
        calibration=samples(name),
        verify="off",
        engine=engine,
        workers=workers,
    )
    data = path.with_name(f"{path.name}.data").read_bytes()
    return path.read_bytes() + data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("written")


@pytest.mark.parametrize(("name", "method"), CASES)
@pytest.mark.parametrize(("engine", "workers"), [("threads", 2), ("threads", 3), ("loky", 2)])
def test_same_bytes(folder: Path, name: str, method: str, engine: str, workers: int) -> None:
    if engine == "loky":
        pytest.importorskip("joblib")
    alone = written(folder, name, method, "threads", 1)
    assert written(folder, name, method, engine, workers) == alone
