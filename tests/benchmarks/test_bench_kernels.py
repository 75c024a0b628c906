"""The benchmark of the kernels, through its short form: it runs, and checks what it times."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.kernels.peers import float_matmul
from benchmarks.kernels.subject import Run, Subject

pytestmark = pytest.mark.slow

COMMAND = Path(__file__).with_name("bench_kernels.py")


def results(folder: Path, *options: str, peers: bool = True) -> list[dict[str, Any]]:
    """The rows of the short form."""
    written = folder / "bench.json"
    done = subprocess.run(
        [sys.executable, COMMAND, "--quick", *options, "--json", written],
        capture_output=True,
        text=True,
        cwd=folder,  # it finds what it needs wherever it is started
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows: list[dict[str, Any]] = json.loads(written.read_text())["results"]
    assert all(row["verified"] and row["percent"] > 0 and row["us"] > 0 for row in rows)
    for row in rows:
        if row["section"] == "planes":
            assert row["x int8 kernel"] > 0
        elif row["section"] in ("low_rank", "hadamard"):
            continue
        elif peers and "bits" in row:
            assert "x 4b g32" in row
            assert "x same" in row
    return rows


@pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "c++")) is None, reason="no C++ compiler for the probe"
)
def test_every_row_is_verified(tmp_path: Path) -> None:
    rows = results(tmp_path, "--only", "gemv,gemm")
    ours = {row["kernel"] for row in rows if "bits" in row}
    assert {"int8 g32", "int4 g32", "int3 g128", "int2 g128", "ternary g32"} <= ours
    peers = {row["kernel"] for row in rows if "bits" not in row}
    assert {"ORT f32", "ORT 4b g32", "ORT 4b g128", "ORT 2b g32", "ORT 8b g32"} <= peers
    for kernel in ours:
        of_kernel = [row for row in rows if row["kernel"] == kernel]
        kinds = {(row["section"], row["M"]) for row in of_kernel}
        assert kinds == {("gemv", 1), ("gemm", 8), ("gemm", 128)}
        assert len(of_kernel) == 4  # cold and warm with one row
    threads = results(
        tmp_path, "--threads", "1,2", "--formats", "int4", "--groups", "32", "--only", "gemm"
    )
    assert {row["threads"] for row in threads} == {1, 2}
    assert all(("x 1 thread" in row) == (row["threads"] == 2) for row in threads)


@pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "c++")) is None, reason="no C++ compiler for the probe"
)
def test_scales_of_groups_and_of_rows(tmp_path: Path) -> None:
    options = ["--per", "group,token", "--formats", "int4", "--groups", "32", "--no-peers"]
    rows = results(tmp_path, "--only", "gemm,planes", *options, peers=False)
    kernels = {row["kernel"] for row in rows}
    assert {"int4 g32", "int4 g32 token"} <= kernels
    assert {"binary x int1 g32", "binary x int1 g32 token", "binary x int1 row"} <= kernels


def test_convolutions(tmp_path: Path) -> None:
    command = Path(__file__).with_name("bench_conv.py")
    options = ["--only", "1x1 1152", "--seconds", "0.01", "--json", tmp_path / "conv.json"]
    subprocess.run([sys.executable, command, *options], check=True, cwd=tmp_path)
    (row,) = json.loads((tmp_path / "conv.json").read_text())["results"]
    assert row["us"] > 0
    assert row["float us"] > 0


@pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "c++")) is None, reason="no C++ compiler for the probe"
)
def test_planes(tmp_path: Path) -> None:
    rows = results(tmp_path, "--only", "planes")
    assert {"binary x int1 g32", "binary x int1 row", "int2 x int2 g128", "int4 x int4 row"} <= {
        row["kernel"] for row in rows
    }
    assert {row["M"] for row in rows} == {8, 128}
    assert all(row["int8 GOPS"] > 0 for row in rows)


@pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "c++")) is None, reason="no C++ compiler for the probe"
)
def test_low_rank(tmp_path: Path) -> None:
    rows = results(tmp_path, "--only", "low_rank")
    assert {(row["rank"], row["M"]) for row in rows} == {
        (rank, m) for rank in (16, 32, 64) for m in (1, 8, 128)
    }
    assert all(row["x apart"] > 0 and row["x none"] > 0 for row in rows)


@pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "c++")) is None, reason="no C++ compiler for the probe"
)
def test_hadamard(tmp_path: Path) -> None:
    rows = results(tmp_path, "--only", "hadamard")
    assert {(row["kernel"], row["M"]) for row in rows} == {
        (f"int4 g{group} H576", rows) for group in (32, 128) for rows in (8, 128)
    }
    assert all(row["x none"] > 0 and row["preparation"] > 0 for row in rows)


def test_a_wrong_result_is_not_timed() -> None:
    right = float_matmul(32, 16)
    wrong = Subject(
        right.name, right.model, right.weights, right.size, lambda x: right.expected(x) + 1, 1e-4
    )
    x = np.ones((3, 32), np.float32)
    Run(right, x, 1, 1)
    with pytest.raises(SystemExit, match="ORT f32: error"):
        Run(wrong, x, 1, 1)
