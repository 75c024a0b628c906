"""The benchmark of language models, in small: it runs, and its figures hang together."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bitfold.frontend.sources import TRAINED

pytestmark = pytest.mark.slow

COMMAND = Path(__file__).with_name("bench_decoders.py")


@pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "c++")) is None, reason="no C++ compiler for the probe"
)
def test_small(tmp_path: Path) -> None:
    options = ["--rounds", "1", "--prefill", "32", "--decode", "4", "--context", "2"]
    written = tmp_path / "out.json"
    command = [sys.executable, COMMAND, TRAINED, *options, "--presets", "w8a8", "--json", written]
    subprocess.run(command, check=True, cwd=tmp_path)
    found = json.loads(written.read_text())
    rows = {row["form"]: row for row in found["results"]}
    assert set(rows) == {"float", "w8a8"}
    assert all(row["prefill"] > 0 and row["decode"] > 0 for row in rows.values())
    assert rows["w8a8"]["cosine"] > 0.99
    matmuls = [row for row in found["operators"] if row["operator"] == "LowBitMatMul"]
    assert {row["phase"] for row in matmuls} == {"prefill", "decode"}
    assert all(row["roofline ms"] > 0 and row["ms"] > 0 for row in matmuls)
