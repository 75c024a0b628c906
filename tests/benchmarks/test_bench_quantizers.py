"""The table of quantizers beside other tools', in small."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from benchmarks.bench_quantizers import comparison, main

from bitfold.frontend.sources import TRAINED


def test_it_runs_beside_another_tool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "out.json"
    given = ["", TRAINED, "--bits", "4", "--limit", "1", "--samples", "2", "--json", str(kept)]
    given += ["--method", "rtn, symmetric", "--method", "ORT rtn, symmetric"]
    monkeypatch.setattr(sys, "argv", given)
    main()
    rows = json.loads(kept.read_text())["rows"]
    mine, theirs = (
        rows[f"{TRAINED}, 4, {name}"] for name in ("rtn, symmetric", "ORT rtn, symmetric")
    )
    assert mine["bits"] == 4.5
    assert theirs["bits"] == 5, "its scales are float32"
    assert mine["weight_bytes"] < theirs["weight_bytes"] < theirs["bytes"]
    assert 0 < mine["figure"] < 0.1
    assert 0 < theirs["figure"] < 0.1
    assert "x as far: " in capsys.readouterr().out


def test_each_tool_meets_the_best_that_stores_no_more() -> None:
    rows = {
        "rtn, 4 bits": {"bits": 4.75, "measure": "cosine", "figure": 0.95},
        "gptq, 4 bits": {"bits": 4.5, "measure": "cosine", "figure": 0.98},
        "wide": {"bits": 8.5, "measure": "cosine", "figure": 0.999},
        "ORT rtn": {"bits": 5.0, "measure": "cosine", "figure": 0.96},
        "ORT HQQ": {"reason": "no torch"},
        "onnxsim GPTQ": {"bits": 4.6, "measure": "cosine", "figure": 0.99},
        "ORT rtn, 2 bits": {"bits": 3.0, "measure": "cosine", "figure": 0.5},
    }
    ahead, behind, none = comparison(rows)
    assert ahead.startswith("ORT rtn ")
    assert ahead.endswith("gptq, 4 bits, 4.50 bits 0.9800, 0.50x as far: ahead")
    assert behind.endswith("2.00x as far: BEHIND")
    assert none.endswith("none of bitfold's stores as few")


@pytest.mark.parametrize("figure", [0.97, 0.3])
def test_of_a_kl_less_is_better(figure: float) -> None:
    rows = {
        "gptq, 4 bits": {"bits": 4.5, "measure": "KL", "figure": 0.5},
        "ORT rtn": {"bits": 5.0, "measure": "KL", "figure": figure},
    }
    (found,) = comparison(rows)
    assert found.endswith("ahead" if figure > 0.5 else "BEHIND")
