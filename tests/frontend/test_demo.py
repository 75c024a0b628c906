"""The demo: a real conversion with measured figures, with and without a network."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bitfold.frontend.cli.main import cli
from bitfold.runtime.errors import BitfoldError, OutputError, UnsupportedError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITFOLD_CACHE", str(tmp_path / "cache"))


def refuse(error: Exception) -> Any:
    def fetch(*_: Any, **__: Any) -> Any:
        raise error

    return fetch


def test_without_a_network_it_falls_back_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bitfold.frontend.demo.find_model", refuse(BitfoldError("no network")))
    arguments = ["demo", "--preset", "w8a8", "--json", "--keep", str(tmp_path / "kept")]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    assert "no network" in result.stderr
    assert "falling back" in result.stderr
    found = json.loads(result.stdout)
    assert found["model"] == "trained"
    assert found["fallback"] == "no network"
    before, after = found["rows"]
    assert (before["name"], after["name"]) == ("float", "w8a8")
    kept = tmp_path / "kept" / "trained.w8a8.onnx"
    size = kept.stat().st_size + kept.with_name(kept.name + ".data").stat().st_size
    assert after["bytes"] == size < before["bytes"]
    assert before["kl"] is None
    assert 0 < after["kl"] < 0.01
    # The model has learnt something: a uniform guess among 512 tokens has a perplexity of 512.
    assert before["perplexity"] < 40
    assert after["perplexity"] == pytest.approx(before["perplexity"], rel=0.02)
    assert before["text"].strip()
    for row in found["rows"]:
        assert row["prefill_tps"] > 0
        assert row["decode_tps"] > 0
    assert after["ratios"]["bytes"] == pytest.approx(after["bytes"] / before["bytes"])


def test_a_missing_package_shows_before_anything_is_converted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    monkeypatch.setattr("bitfold.frontend.demo.convert", refuse(AssertionError("converted")))
    result = CliRunner().invoke(cli, ["demo", "--offline"])
    assert result.exit_code == UnsupportedError.exit_code
    assert "needs the package tokenizers" in result.stderr


def test_the_table_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    result = CliRunner().invoke(cli, ["demo", "--preset", "w8a8", "--offline"])
    assert result.exit_code == 0, (result.output, result.exception)
    for word in ("perplexity", "mean KL", "decode, tokens/s", "load, s", "w8a8", "The statement"):
        assert word in result.stdout


def test_a_full_disk_is_no_reason_to_measure_something_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bitfold.frontend.demo.find_model", refuse(OutputError("disk full")))
    result = CliRunner().invoke(cli, ["demo"])
    assert result.exit_code == OutputError.exit_code
    assert "disk full" in result.stderr
