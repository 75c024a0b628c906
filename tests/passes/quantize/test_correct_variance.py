"""Outputs of rounded weights with the mean and the variance that they had."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from support.graphs import apply, parse, run

from bitfold.passes.quantize.correct_variance import MOST, variance_gain
from bitfold.passes.quantize.quantize import Quantize

RNG = np.random.default_rng(0)
N, K = 48, 64


def f(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


ROOT, CENTER = f(K, K) / 4, f(K)
WEIGHT, BIAS = f(N, K), f(N)


def rows(count: int) -> np.ndarray:
    """Inputs that hang together, far from zero in the mean."""
    return f(count, K) @ ROOT + CENTER


def test_the_gain_gives_back_the_variance() -> None:
    x = rows(5000).astype(np.float64)
    gram, mean = x.T @ x / len(x), x.mean(0)
    rounded = WEIGHT * (1 + 0.03 * f(N, 1)) + 0.05 * f(N, K)
    gain = variance_gain(WEIGHT, rounded, gram, mean)
    assert 1 / MOST < gain.min() < gain.max() < MOST
    found = (x @ (gain[:, None] * rounded).T).var(0)
    np.testing.assert_allclose(found, (x @ WEIGHT.T).var(0), rtol=1e-6)


def test_outputs_that_vary_by_nothing_stay() -> None:
    gram = np.eye(K)
    some = np.where(np.arange(N)[:, None] % 2, WEIGHT, 0)
    np.testing.assert_array_equal(variance_gain(some, WEIGHT * 0, gram, np.zeros(K)), np.ones(N))
    large = variance_gain(WEIGHT, 9 * WEIGHT, gram, np.zeros(K))
    np.testing.assert_array_equal(large, np.full(N, 1 / MOST))


NETS = {
    "MatMul": ("[n, 64]", "[n, 48]", "p = MatMul(x, w) y = Add(p, b)"),
    "Gemm": ("[n, 64]", "[n, 48]", "y = Gemm <transB = 1> (x, w, b)"),
    "Conv": ("[n, 64, h, w]", "[n, 48, h, w]", "y = Conv(x, w, b)"),
}


def net(op: str) -> tuple[ir.Model, tuple[int, ...]]:
    """A linear layer, and the axes of its output that are rows."""
    given, made, body = NETS[op]
    weight = {"MatMul": WEIGHT.T, "Gemm": WEIGHT, "Conv": WEIGHT[:, :, None, None]}[op]
    model = parse(f"g (float{given} x) => (float{made} y) {{ {body} }}", w=weight, b=BIAS)
    return model, (0, 2, 3) if op == "Conv" else (0,)


def inputs(op: str, count: int) -> np.ndarray:
    if op != "Conv":
        return rows(count * 30)
    return np.ascontiguousarray(rows(count * 30).reshape(count, 6, 5, K).transpose(0, 3, 1, 2))


def moved(op: str, item: Quantize) -> tuple[float, float]:
    """How far means and deviations of the outputs are from the float model's, on other inputs."""
    model, axes = net(op)
    probe = {"x": inputs(op, 200)}
    before = run(model, probe)["y"]
    apply(item, model, [{"x": inputs(op, 100)}, {"x": inputs(op, 100)}])
    after = run(model, probe)["y"]
    mean = np.square((after.mean(axes) - before.mean(axes)) / before.std(axes)).mean()
    return float(mean), float(np.square(np.log(after.std(axes) / before.std(axes))).mean())


@pytest.mark.parametrize("op", NETS)
@pytest.mark.parametrize("method", ["rtn", "gptq"])
def test_mean_and_variance_are_those_of_the_float_model(op: str, method: str) -> None:
    plain = {"weights": "int2", "acts": "none", "method": method, "correct_bias": True}
    mean, deviation = moved(op, Quantize(**plain))
    corrected = moved(op, Quantize(**plain, correct_variance=True))
    assert corrected[1] < 0.1 * deviation
    assert corrected[0] < max(0.1 * mean, 1e-4)


def test_with_scales_of_the_inputs_too(monkeypatch: pytest.MonkeyPatch) -> None:
    outliers = WEIGHT * np.where(np.arange(K) % 11 == 0, 20, 1).astype(np.float32)
    monkeypatch.setitem(globals(), "WEIGHT", outliers)
    plain = {"weights": "int3", "acts": "none", "method": "ada-dim"}
    _, deviation = moved("Gemm", Quantize(**plain))
    assert moved("Gemm", Quantize(**plain, correct_variance=True))[1] < 0.2 * deviation


@pytest.mark.parametrize("op", ["MatMul", "Gemm"])
def test_biases_of_matmuls(op: str) -> None:
    plain = {"weights": "int2", "acts": "none"}
    mean, deviation = moved(op, Quantize(**plain))
    corrected = moved(op, Quantize(**plain, biases="all"))
    assert corrected[0] < 0.1 * mean
    assert corrected[1] == pytest.approx(deviation, rel=0.2)


def test_a_matmul_without_a_bias_gets_none() -> None:
    model = parse("g (float[n, 64] x) => (float[n, 48] y) { y = MatMul(x, w) }", w=WEIGHT.T)
    entry = apply(Quantize(acts="none", biases="all"), model, [{"x": rows(50)}])
    assert not any("corrected" in note for note in entry.notes)
    assert "Add" not in {node.op_type for node in model.graph}


def test_scales_that_take_no_factor() -> None:
    model, _ = net("Gemm")
    item = Quantize(acts="none", scales="e8m0", symmetric=True, correct_variance=True)
    entry = apply(item, model, [{"x": rows(50)}])
    assert "outputs of 0 of 1 weight vary as before" in entry.notes
