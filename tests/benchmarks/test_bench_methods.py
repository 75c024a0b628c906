"""The table of methods, in small: it runs once, goes on where it was, and its figures are right."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from benchmarks.bench_methods import against, interpolated, main, markdown
from benchmarks.layer_errors import Layers
from benchmarks.measuring import Rows
from benchmarks.method_rows import ROWS, Row
from support.graphs import parse

from bitfold.frontend.sources import TRAINED

RNG = np.random.default_rng(0)


def weights(name: str, options: str) -> Row:
    return Row(name, "weights", options, "a paper")


def test_a_layer_s_error_is_that_of_its_outputs() -> None:
    model = parse(
        "g (float[b, s, 64] x) => (float[b, s, 32] z) { y = MatMul(x, w) z = Relu(y) }",
        w=RNG.standard_normal((64, 32)).astype(np.float32),
    )
    samples = [{"x": RNG.standard_normal((1, 50, 64)).astype(np.float32)} for _ in range(4)]
    layers = Layers(model, samples, blocks=1, per_block=1)
    found = layers.error("quantize{weights=int4 group=32 ranges=minmax symmetric=true acts=none}")
    weight = model.graph.initializers["w"].const_value.numpy().T
    grouped = weight.reshape(32, 2, 32)
    scale = (np.abs(grouped).max(-1, keepdims=True) / 8).astype(np.float16).astype(np.float32)
    rounded = (np.clip(np.rint(grouped / scale), -8, 7) * scale).reshape(32, 64)
    rows = samples[-1]["x"][0]
    lost = np.square(rows @ (rounded - weight).T).sum() / np.square(rows @ weight.T).sum()
    assert found.bits == 4.5
    assert found.error == pytest.approx(lost, rel=0.35)
    finer = layers.error("quantize{weights=int8 group=32 symmetric=true acts=none}")
    assert finer.error < found.error / 100


def test_between_two_widths_the_logarithm_is_interpolated() -> None:
    points = [(2.5, 0.16), (3.5, 0.04), (4.5, 0.01)]
    assert interpolated(points, 3.0) == pytest.approx(0.08)
    assert interpolated(points, 4.5) == pytest.approx(0.01)
    assert interpolated(points, 5.0) is None


def test_rows_are_compared_at_equal_bits() -> None:
    rows = Rows(None)
    for number, bits, error in (("int2", 2.75, 0.16), ("int3", 3.75, 0.04)):
        figures = {"bits": bits, "layer_error": error}
        rows.put(f"nearest, {number}, symmetric=false", figures)
    row = weights("some", "weights=int3 method=gptq")
    found = {"bits": 3.75, "layer_error": 0.02}
    assert against(row, found, rows, "layer_error") == pytest.approx(0.5)
    assert against(row, {**found, "bits": 3.25}, rows, "layer_error") == pytest.approx(0.25)
    cosine = {"measure": "cosine", "figure": 0.9}
    rows.put("other", {"measure": "cosine", "figure": 0.8})
    other = Row("more", "attention", "", "a paper", against="other")
    assert against(other, cosine, rows, "figure") == pytest.approx(0.5)


def test_names_are_unique_and_comparisons_exist() -> None:
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names)
    assert {row.against for row in ROWS} - {""} <= set(names)


def test_it_runs_and_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "out.json"
    name = "rtn int3, no zero points"
    given = ["", TRAINED, "--samples", "2", "--chunks", "1", "--method", name, "--json", str(kept)]
    monkeypatch.setattr(sys, "argv", given)
    main()
    assert capsys.readouterr().out.count(name) == 2, "its layers, and the model"
    row = json.loads(kept.read_text())["rows"][name]
    assert row["bits"] == 3.5
    assert 0 < row["layer_error"] < 0.1
    assert 0 < row["figure"] < 1
    assert 0 < row["peak_anonymous"] < row["peak_resident"]
    rows = Rows(kept)
    rows.put(name, {**row, "figure": 0.125})
    main()
    assert "0.1250" in capsys.readouterr().out, "it was measured anew"
    assert f"| {name} | 3.50 |" in markdown(rows)
