"""Low-rank branches that LowBitMatMul takes in, and what it leaves alone."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from support.graphs import apply, assert_same, parse, run

from bitfold.passes.lower.lower import Lower
from bitfold.passes.quantize.quantize import Quantize
from bitfold.runtime.execution import open_session

K, N, R = 96, 64, 6
NORM = "x = RMSNormalization<axis = -1, epsilon = 12.0>(raw, gain)\n"
BRANCH = "t = MatMul(x, down)\nl = MatMul(t, up)\n"


def quantized(
    nodes: str, acts: str = "int8", halves: bool = True, outputs: str = "float[b, s, 64] y"
) -> ir.Model:
    """Weights w [96, 64], down [96, 6], up [6, 64] and vectors; w alone is quantized."""
    rng = np.random.default_rng(0)
    arrays = {
        "w": rng.standard_normal((K, N), np.float32),
        "down": rng.standard_normal((K, R), np.float32),
        "rows": rng.standard_normal((R, K), np.float32),
        "up": rng.standard_normal((R, N), np.float32),
        "gain": rng.integers(1, 5, K).astype(np.float32),
        "bias": rng.standard_normal(N, np.float32),
    }
    if halves:
        arrays = {name: each.astype(np.float16).astype(np.float32) for name, each in arrays.items()}
    used = {name: array for name, array in arrays.items() if f"{name})" in nodes}
    source = "raw" if NORM in nodes else "x"
    model = parse(f"g (float[b, s, 96] {source}) => ({outputs}) {{{nodes}}}", **used)
    quantize = Quantize(
        weights="int4", group=16, acts=acts, exclude=("down", "rows", "up"), correct_bias=False
    )
    apply(quantize, model)
    return model


def lowered(model: ir.Model, source: str = "x") -> ir.Model:
    """A native copy, whose kernels and bodies give what the model gives."""
    native = model.clone()
    entry = apply(Lower(), native)
    onnx.checker.check_model(ir.to_proto(native))
    taken = any("low rank" in note.text for note in entry.changes)
    assert taken == any(_factors(node) for node in native.graph)
    rows = np.random.default_rng(1).standard_normal((2, 5, K), np.float32)
    exact = {source: np.copysign(np.float32(2), rows)}  # rows that a norm leaves exact
    expected = run(model, exact)
    assert_same(expected, run(native, exact), 1e-5)
    assert_same(expected, open_session(native, op_library=False).run(exact), 1e-5)
    return native


def _factors(node: ir.Node) -> list[ir.Value]:
    """D and U of a LowBitMatMul."""
    return [value for value in node.inputs[10:12] if value is not None]


def ops(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize("acts", ["int8", "none"])
@pytest.mark.parametrize(
    "tail",
    [
        "y = Add(p, l)",
        "y = Add(l, p)",
        "s = Add(p, bias)\ny = Add(s, l)",
        "s = Add(p, l)\ny = Add(s, bias)",
        "s = Add(p, l)\ny = Relu(s)",
    ],
)
def test_branch(tail: str, acts: str) -> None:
    native = lowered(quantized(f"p = MatMul(x, w)\n{BRANCH}{tail}", acts))
    assert ops(native) == ["LowBitMatMul"]
    down, up = _factors(native.graph.node(0))
    assert down.name == "w.low_rank_down"
    assert (down.shape, up.shape) == (ir.Shape([R, K]), ir.Shape([N, R]))
    assert down.dtype == up.dtype == ir.DataType.FLOAT16


def test_factors_stored_by_outputs() -> None:
    """D [R, K] behind a Transpose."""
    turned = "d = Transpose<perm = [1, 0]>(rows)\nt = MatMul(x, d)\nl = MatMul(t, up)\n"
    assert ops(lowered(quantized(f"p = MatMul(x, w)\n{turned}y = Add(p, l)"))) == ["LowBitMatMul"]


def test_floats_stay_what_they_are() -> None:
    """Factors that float16 does not hold are stored in float32."""
    native = lowered(quantized(f"p = MatMul(x, w)\n{BRANCH}y = Add(p, l)", halves=False))
    assert {value.dtype for value in _factors(native.graph.node(0))} == {ir.DataType.FLOAT}


def test_behind_a_norm() -> None:
    """The branch reads the norm too, which is taken in all the same."""
    native = lowered(quantized(f"{NORM}p = MatMul(x, w)\n{BRANCH}y = Add(p, l)"), "raw")
    assert ops(native) == ["LowBitMatMul"]


@pytest.mark.parametrize("residual", ["y = Add(s, r)", "y = Add(r, s)"])
def test_before_a_residual(residual: str) -> None:
    nodes = f"p = MatMul(x, w)\n{BRANCH}s = Add(p, l)\nr = Neg(l)\n{residual}"
    assert "Add" in ops(lowered(quantized(nodes)))  # the branch has another reader
    nodes = f"p = MatMul(x, w)\n{BRANCH}s = Add(p, l)\nr = Relu(p)\n{residual}"
    assert ops(lowered(quantized(nodes))).count("Add") == 2  # the product has


@pytest.mark.parametrize(
    "nodes",
    [
        "a = Relu(x)\nt = MatMul(a, down)\nl = MatMul(t, up)\np = MatMul(x, w)\ny = Add(p, l)",
        "t = MatMul(x, down)\na = Relu(t)\nl = MatMul(a, up)\np = MatMul(x, w)\ny = Add(p, l)",
        f"p = MatMul(x, w)\n{BRANCH}a = Relu(p)\ny = Add(a, l)",
    ],
    ids=["another input", "no product of two", "behind the activation"],
)
def test_what_is_left_alone(nodes: str) -> None:
    native = lowered(quantized(nodes))
    assert ops(native).count("MatMul") == 2
    assert not any(_factors(node) for node in native.graph)


def test_an_output_stays() -> None:
    nodes = f"p = MatMul(x, w)\n{BRANCH}y = Add(p, l)"
    native = lowered(quantized(nodes, outputs="float[b, s, 64] y, float[b, s, 6] t"))
    assert ops(native).count("MatMul") == 2
