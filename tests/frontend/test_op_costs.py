"""Costs by operator: nodes, bytes and times, each by a known answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from support.graphs import parse

from bitfold.frontend.emit import write_model
from bitfold.frontend.op_costs import op_bytes, op_costs
from bitfold.frontend.op_times import fastest_run, op_times
from bitfold.models.tiny import TINY, sample_feeds
from bitfold.runtime.errors import BitfoldError

GRAPH = """
g (float[N, 4] x) => (float[N, 8] y)
<float[4, 4] w = {}, float[4] b = {}> {{
    c = Constant <value = float[4, 8] {}> ()
    h = MatMul (x, w)
    i = Add (h, b)
    j = MatMul (i, w)
    k = Add (j, b)
    y = MatMul (k, c)
}}
"""


def listed(count: int) -> str:
    return "{" + ", ".join(["1.0"] * count) + "}"


def model() -> ir.Model:
    return parse(GRAPH.format(listed(16), listed(4), listed(32)))


def test_shared_weights_count_once_and_constants_with_their_reader() -> None:
    assert op_bytes(model()) == {"MatMul": 4 * 16 + 4 * 32, "Add": 4 * 4}


def test_joins_nodes_bytes_and_times() -> None:
    after = model()
    for node in after.graph:
        if node.op_type == "MatMul":
            node.domain, node.op_type = "bitfold", "LowBitMatMul"
    costs = op_costs(
        model(), after, {"MatMul": 0.004, "Add": 0.001}, {"LowBitMatMul": 0.002, "Fused": 0.003}
    )
    found = {
        c.op: (c.nodes_before, c.nodes, c.bytes_before, c.bytes, c.seconds_before, c.seconds)
        for c in costs
    }
    assert found == {
        "MatMul": (3, 0, 192, 0, 0.004, 0.0),
        "Fused": (0, 0, 0, 0, 0.0, 0.003),
        "bitfold.LowBitMatMul": (0, 3, 0, 192, 0.0, 0.002),
        "Add": (2, 2, 16, 16, 0.001, 0.0),
        "Constant": (1, 1, 0, 0, 0.0, 0.0),
    }
    assert [cost.op for cost in costs][:2] == ["MatMul", "Fused"]
    assert {cost.seconds for cost in op_costs(model(), after)} == {None}


def event(name: str, start: int, micros: int, op: str = "") -> dict[str, Any]:
    return {"name": name, "ts": start, "dur": micros, "args": {"op_name": op}}


def test_takes_the_fastest_run_after_the_first() -> None:
    events = [
        event("model_run", 0, 5),
        event("a_kernel_time", 1, 4, "MatMul"),  # the fastest, but it is skipped
        event("a_kernel_time", 101, 30, "MatMul"),
        event("b_kernel_time", 140, 40, "Add"),
        event("model_run", 100, 90),
        event("a_kernel_time", 201, 20, "MatMul"),
        event("b_kernel_time", 231, 10, "Add"),
        event("c_kernel_time", 245, 5, "MatMul"),
        event("a_fence_before", 246, 50, "MatMul"),
        event("model_run", 200, 60),
    ]
    assert fastest_run(events, skip=1) == pytest.approx({"MatMul": 25e-6, "Add": 10e-6})
    assert fastest_run(events, skip=3) == {}


def test_profiles_a_model(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    write_model(TINY["bert"](0), path)
    times = op_times(path, sample_feeds("bert", 1))
    assert times["MatMul"] > 0
    assert all(0 <= seconds < 60 for seconds in times.values())
    assert [each.name for each in tmp_path.iterdir() if "profile" in each.name] == []
    with pytest.raises(BitfoldError, match="cannot be profiled"):
        op_times(path, {"unknown": np.zeros(1, np.float32)})
