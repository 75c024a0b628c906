"""``keep_fastest``: what wins is kept, and the recipe that says so needs no clock to run again."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from support.graphs import census, parse

import bitfold
from bitfold.frontend import keep_fastest as module
from bitfold.frontend import site_times
from bitfold.frontend.cli.main import cli
from bitfold.frontend.timing import time_in_turns
from bitfold.models.tiny import TINY
from bitfold.passes.core.recipe import parse_text
from bitfold.runtime.errors import RecipeError, UnsupportedError

RECIPE = "canonicalize, quantize{group=32}, lower"

Clock = Callable[[str, tuple[int, ...]], float]


def f(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def three_matmuls() -> ir.Model:
    """Widths 64, 96 and 128, so that each input says which site it is."""
    model = parse(
        """g (float[b, 64] x) => (float[b, 64] y) {
            s = MatMul(x, w1)
            t = Tanh(s)
            u = MatMul(t, w2)
            v = Tanh(u)
            y = MatMul(v, w3)
        }""",
        w1=f(64, 96),
        w2=f(96, 128),
        w3=f(128, 64),
    )
    for number, node in enumerate(model.graph):
        node.name = f"layer[{number}]"
    return model


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[Clock], None]:
    """Replaces the clock: alternatives take as long as a function of name and shape says."""
    monkeypatch.setattr(module, "op_library_path", lambda: Path("any"))

    def use(times: Clock) -> None:
        def fake(sessions: dict[str, Any], feeds: dict[str, np.ndarray]) -> dict[str, float]:
            shape = next(iter(feeds.values())).shape
            return {name: times(name, shape) for name in sessions}

        monkeypatch.setattr(site_times, "time_in_turns", fake)

    return use


def by_width(name: str, shape: tuple[int, ...]) -> float:
    """Float wins at 96 inputs, ort at 128, native elsewhere; whole models are named otherwise."""
    winner = {96: "float", 128: "ort"}.get(shape[-1], "native")
    if name == "the recipe as it was":
        return 3.0
    return 1.0 if name == winner else 2.0


def test_every_site_takes_what_wins(clock: Any, tmp_path: Path) -> None:
    clock(by_width)
    path = tmp_path / "a.onnx"
    result = bitfold.convert(three_matmuls(), path, passes=RECIPE, keep_fastest=True)
    found = census(result.model)
    assert [found[name] for name in ("LowBitMatMul", "MatMul", "MatMulNBits")] == [1, 1, 1]
    notes, timings = result.report.notes, result.report.timings
    assert "layer[[]2]" in result.report.recipe
    assert [line.split(": ")[0] for line in timings] == ["layer[0]", "layer[2]", "layer[4]"]
    assert [line.rsplit(" ", 1)[1] for line in timings] == ["native", "float", "ort"]
    assert "float 2e+03" in timings[0]
    assert "sites by what is fastest alone: float at 1, native at 1, ort at 1" in notes
    assert any("each site's winner 1.00, the recipe as it was 1.50" in note for note in notes)


def test_the_recorded_recipe_gives_the_same_bytes_without_a_clock(
    clock: Any, tmp_path: Path
) -> None:
    clock(by_width)
    first, second = tmp_path / "a.onnx", tmp_path / "b.onnx"
    bitfold.convert(three_matmuls(), first, passes=RECIPE, keep_fastest=True)

    def none(name: str, shape: tuple[int, ...]) -> float:
        raise AssertionError("no clock is needed")

    clock(none)
    bitfold.convert(three_matmuls(), second, recipe=first)
    data = [path.with_name(path.name + ".data").read_bytes() for path in (first, second)]
    assert data[0] == data[1]
    models = [path.read_bytes() for path in (first, second)]
    assert models[0] == models[1].replace(b"b.onnx.data", b"a.onnx.data")


def test_a_close_race_leaves_the_recipe_as_it_is(clock: Any) -> None:
    clock(lambda name, shape: 0.98 if name == "float" else 1.0)
    result = bitfold.convert(three_matmuls(), passes=RECIPE, keep_fastest=True)
    assert census(result.model)["LowBitMatMul"] == 3


def test_the_whole_model_has_the_last_word(clock: Any) -> None:
    """A site is faster alone in ORT's operator, and the model is not."""

    def times(name: str, shape: tuple[int, ...]) -> float:
        return {"ort": 1.0, "each site's winner": 3.0}.get(name, 2.0)

    clock(times)
    result = bitfold.convert(three_matmuls(), passes=RECIPE, keep_fastest=True)
    assert census(result.model)["LowBitMatMul"] == 3
    assert any(note.endswith("kept the recipe as it was") for note in result.report.notes)
    lines = [*result.report.notes[:-1], *result.report.timings]
    assert lines[-1].endswith("fastest alone: ort")
    assert not [line for line in lines if "kept" in line]


def test_convolutions_go_together_where_that_is_faster(clock: Any) -> None:
    def times(name: str, shape: tuple[int, ...]) -> float:
        return {"each site's winner, convolutions in float": 1.0}.get(name, 2.0)

    clock(times)
    result = bitfold.convert(TINY["cnn"](0), preset="w8a8", keep_fastest=True)
    assert census(result.model)["LowBitConv"] == 0
    assert census(result.model)["LowBitMatMul"] == 1


def test_float_everywhere_is_refused(clock: Any, tmp_path: Path) -> None:
    clock(lambda name, shape: 1.0 if name == "float" else 2.0)
    with pytest.raises(UnsupportedError, match="float is the fastest") as caught:
        bitfold.convert(three_matmuls(), tmp_path / "a.onnx", passes=RECIPE, keep_fastest=True)
    assert "keep-fastest" in caught.value.hint
    assert not list(tmp_path.iterdir())


def test_a_recipe_that_does_not_quantize_is_refused() -> None:
    with pytest.raises(RecipeError, match="with quantize and lower"):
        bitfold.convert(three_matmuls(), preset="float", keep_fastest=True)


@pytest.mark.parametrize("target", ["ort", "portable"])
@pytest.mark.parametrize("name", ["bert", "vit"])
def test_a_real_clock(name: str, target: str) -> None:
    """Which alternative wins is the machine's affair; every site must have been timed."""
    quantized = bitfold.convert(TINY[name](0), preset="w8a8", target=target, verify="off")
    (entry,) = [each for each in quantized.report.passes if each.name == "quantize"]
    try:
        result = bitfold.convert(TINY[name](0), preset="w8a8", target=target, keep_fastest=True)
    except UnsupportedError as error:
        assert "float is the fastest" in str(error)  # noqa: PT017
        return
    lines = result.report.timings
    like = sum(int(line.split(" and ")[1].split(" ")[0]) for line in lines if " like it:" in line)
    assert len(lines) + like == sum(site.kind != "gather" for site in entry.sites)
    assert [f"{target} " in line and "float " in line for line in lines] == [True] * len(lines)
    assert lines


def test_turns_rotate_and_count_the_fastest_run() -> None:
    order: list[str] = []

    class Fake:
        def __init__(self, name: str) -> None:
            self.name = name

        def run(self, feeds: Any) -> None:
            order.append(self.name)

    sessions: Any = {"a": Fake("a"), "b": Fake("b")}
    times = time_in_turns(sessions, {}, rounds=2)
    assert set(times) == {"a", "b"}
    firsts = [name for name, before in zip(order[1:], order, strict=False) if name != before]
    assert firsts == ["b", "a", "b", "a"]  # warming up a, b; a first, then b first


@given(st.text("ab[]*?!/.", min_size=1), st.text("ab[]*?!/.", min_size=1))
def test_a_glob_of_one_name(name: str, other: str) -> None:
    assert fnmatchcase(name, module.as_glob(name))
    assert fnmatchcase(other, module.as_glob(name)) == (name == other)


def test_names_with_brackets_read_back_from_the_recipe() -> None:
    changed = module.changed_recipe(parse_text(RECIPE), ["a[0]*"], ["b?"])
    assert parse_text(str(changed)) == changed


def test_the_command_shows_what_was_timed(tmp_path: Path) -> None:
    ir.save(TINY["bert"](0), tmp_path / "float.onnx")
    words = ["convert", str(tmp_path / "float.onnx"), "-o", str(tmp_path / "m.onnx")]
    words += ["--report", str(tmp_path / "report")]
    words += ["--passes", "canonicalize, quantize{group=32}, lower", "--target", "ort"]
    shown = CliRunner().invoke(cli, [*words, "--keep-fastest"])
    if shown.exit_code == UnsupportedError.exit_code:
        assert "float is the fastest" in shown.stderr
        return
    assert shown.exit_code == 0, shown.stderr
    assert "sites by what is fastest alone: " in shown.stdout
    assert "ms on 1x16x64" not in shown.stdout
    for name in ("report.json", "report.html"):
        assert "ms on 1x16x64" in (tmp_path / "report" / name).read_text()
    assert "whole model, time relative to float" in shown.stdout
