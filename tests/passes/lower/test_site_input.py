"""Scales of a matmul's input channels, which LowBitMatMul takes in."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from support.graphs import apply, assert_same, parse, run

from bitfold.passes.lower.lower import Lower
from bitfold.passes.quantize.quantize import Quantize
from bitfold.runtime.execution import open_session

K, N = 96, 64
NORM = "raw = RMSNormalization<axis = -1, epsilon = 12.0>(x, gain)\n"


def lowered(nodes: str, acts: str = "int8", source: str = "float[b, s, 96] x") -> ir.Model:
    """Nodes on quantized weights w and w2 as native ones, which give what the nodes give."""
    rng = np.random.default_rng(0)
    arrays = {
        "w": rng.standard_normal((K, N), np.float32),
        "w2": rng.standard_normal((K, N), np.float32),
        "d": rng.standard_normal((K, 8), np.float32),
        "u": rng.standard_normal((8, N), np.float32),
        "gain": rng.integers(1, 5, K).astype(np.float32),
        "scales": np.exp2(rng.integers(-3, 4, K)).astype(np.float32),
    }
    used = {
        name: each for name, each in arrays.items() if f" {name}" in nodes or f"({name}" in nodes
    }
    model = parse(f"g ({source}) => (float[b, s, 64] y) {{{nodes}}}", **used)
    apply(Quantize(weights="int4", group=16, acts=acts, exclude=("d", "u")), model)
    native = model.clone()
    apply(Lower(), native)
    onnx.checker.check_model(ir.to_proto(native))
    width = 1 if source.startswith("float[b, s, 1]") else K
    rows = np.random.default_rng(1).standard_normal((2, 5, width), np.float32)
    exact = {"x": np.copysign(np.float32(2), rows)}  # rows that a norm leaves exact
    expected = run(model, exact)
    assert_same(expected, run(native, exact), 1e-5)
    assert_same(expected, open_session(native, op_library=False).run(exact), 1e-5)
    return native


def ops(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize("acts", ["int8", "none"])
@pytest.mark.parametrize("order", ["x, scales", "scales, x"])
def test_scales(order: str, acts: str) -> None:
    native = lowered(f"z = Mul({order})\ny = MatMul(z, w)", acts)
    (node,) = native.graph
    scales = node.inputs[12]
    assert scales is not None
    assert scales.shape == ir.Shape([1, K])
    assert node.attributes.get_int("n_group_size") == N


def test_behind_a_norm_and_beside_a_branch() -> None:
    """A low-rank branch reads what is not scaled yet, and both the norm."""
    nodes = f"{NORM}z = Mul(raw, scales)\np = MatMul(z, w)\nt = MatMul(raw, d)\nl = MatMul(t, u)\n"
    native = lowered(nodes + "y = Add(p, l)")
    assert ops(native) == ["LowBitMatMul"]
    assert sum(value is not None for value in native.graph.node(0).inputs[10:]) == 3


def test_a_branch_of_scaled_rows() -> None:
    """Its operator would have to scale twice: the product stays a node."""
    nodes = "z = Mul(x, scales)\np = MatMul(z, w)\nt = MatMul(z, d)\nl = MatMul(t, u)\n"
    assert ops(lowered(nodes + "y = Add(p, l)")) == ["Mul", "LowBitMatMul"]


@pytest.mark.parametrize(
    ("nodes", "source"),
    [
        ("z = Mul(x, scales)\np = MatMul(z, w)\nq = MatMul(z, w2)\ny = Mul(p, q)", ""),
        ("z = Mul(x, scales)\ny = MatMul(z, w)", "float[b, s, 1] x"),
        ("z = Mul(x, x)\ny = MatMul(z, w)", ""),
    ],
    ids=["two readers", "broadcast", "no constant"],
)
def test_what_is_left_alone(nodes: str, source: str) -> None:
    native = lowered(nodes, source=source or "float[b, s, 96] x")
    assert "Mul" in ops(native)
    assert not any(len(node.inputs) > 12 for node in native.graph)
