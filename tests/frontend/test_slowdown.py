"""A result that is slower than float on this machine is called so, and nothing else is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from support.small_models import MLP, MLP_SHAPES, make_model

import bitfold
from bitfold.frontend import slowdown
from bitfold.frontend.slowdown import relative_time, slower_note
from bitfold.frontend.timing import MOST_TURNS, time_briefly
from bitfold.models.tiny import TINY
from bitfold.passes.core.recipe import parse_text

NATIVE = "quantize{weights=int8 group=32}, lower"
ORT = "quantize{weights=int8 group=32 target=ort}, lower{target=ort}"


class Slow:
    """Runs that take as long as they are told, by a clock of their own."""

    now = 0.0

    def __init__(self, *seconds: float) -> None:
        self.seconds = list(seconds)
        self.runs = 0

    def run(self, feeds: Any) -> dict[str, np.ndarray]:
        self.runs += 1
        Slow.now += self.seconds[min(self.runs, len(self.seconds)) - 1]
        return {}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitfold.frontend.timing.time.perf_counter", lambda: Slow.now)


def briefly(budget: float, *sessions: Slow) -> dict[str, float] | None:
    return time_briefly(dict(zip("ab", sessions, strict=False)), {}, budget)  # type: ignore[arg-type]


@pytest.mark.usefixtures("clock")
def test_the_fastest_runs_count() -> None:
    a, b = Slow(0.02, 0.002), Slow(0.003, 0.02)
    assert briefly(60, a, b) == pytest.approx({"a": 0.002, "b": 0.003})
    assert a.runs == b.runs == MOST_TURNS + 1


@pytest.mark.usefixtures("clock")
def test_a_budget_that_is_used_up_ends_the_turns() -> None:
    a, b = Slow(0.25), Slow(0.5)
    assert briefly(2.0, a, b) == {"a": 0.25, "b": 0.5}
    assert a.runs == b.runs == 1 + 3  # after 1.5 seconds one more turn begins


@pytest.mark.usefixtures("clock")
def test_a_slow_float_model_is_run_once_and_its_result_never() -> None:
    a, b = Slow(2), Slow(0)
    assert briefly(1.0, a, b) is None
    assert (a.runs, b.runs) == (1, 0)


@pytest.mark.usefixtures("clock")
def test_one_run_of_a_very_slow_result_tells_enough() -> None:
    a, b = Slow(0.5), Slow(5)
    assert briefly(1.0, a, b) == {"a": 0.5, "b": 5}
    assert (a.runs, b.runs) == (1, 1)


@pytest.mark.parametrize(
    ("relative", "recipe", "kept", "note"),
    [
        (None, NATIVE, False, ""),
        (0.5, ORT, False, ""),
        (slowdown.SLOWER - 0.01, ORT, False, ""),
        (2.34, ORT, False, "2.3 times slower.*; try --keep-fastest or --target native$"),
        (2.34, ORT, True, "2.3 times slower.*; try --target native$"),
        (2.34, NATIVE, False, "2.3 times slower.*; try --keep-fastest$"),
        (2.34, NATIVE, True, "2.3 times slower than float here, on the first sample$"),
        (2.34, "canonicalize", False, "2.3 times slower than float here, on the first sample$"),
    ],
)
def test_what_helps_is_what_was_not_tried(
    relative: float | None, recipe: str, kept: bool, note: str
) -> None:
    told = slower_note(relative, parse_text(recipe), kept)
    assert re.search(note, told)
    assert bool(told) == bool(note)


def wide(copies: int) -> ir.Model:
    """As many products in a row."""
    body = "".join(f"h{i + 1} = MatMul (h{i}, w)\n" for i in range(copies))
    text = f"""<ir_version: 10, opset_import: ["" : 21]>
    g (float[n, 128] x) => (float[n, 128] y) {{
        h0 = Identity (x)
        {body} y = Identity (h{copies})
    }}"""
    return make_model(text, {"w": (128, 128)})


def test_relative_time_sees_a_model_that_does_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slowdown, "BUDGET", 60)
    feeds = {"x": np.ones((256, 128), np.float32)}
    found = relative_time(wide(2), wide(40), feeds)
    assert found is not None
    assert found > 3


def test_large_models_are_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slowdown, "LARGEST", 100)
    assert relative_time(wide(1), wide(1), {"x": np.ones((1, 128), np.float32)}) is None


def test_function_bodies_are_not_timed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = make_model(MLP, MLP_SHAPES)
    made = bitfold.convert(TINY["cnn"](0), preset="w8a8", verify="off").model
    monkeypatch.setenv("BITFOLD_OP_LIBRARY", str(tmp_path / "absent.so"))
    assert relative_time(model, made, {}) is None


@pytest.mark.parametrize("verify", ["fast", "off"])
def test_convert_notes_what_it_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verify: Any
) -> None:
    """The file is the same whatever was measured; without checks nothing is."""
    written = []
    for found in (7.04, 0.5):
        monkeypatch.setattr("bitfold.frontend.convert.relative_time", lambda *_, r=found: r)
        out = tmp_path / "m.onnx"
        made = bitfold.convert(
            TINY["cnn"](0), out, preset="w8a8", target="ort", verify=verify, force=True,
            report=tmp_path / "r",
        )  # fmt: skip
        slower = [note for note in made.report.notes if "slower than float here" in note]
        assert len(slower) == (verify == "fast" and found > 1)
        assert made.report.relative_time == (found if verify == "fast" else None)
        report = (tmp_path / "r" / "report.json").read_text()
        assert ("7.0 times slower" in report) == bool(slower)
        written.append((out.read_bytes(), out.with_name("m.onnx.data").read_bytes()))
    assert written[0] == written[1]
