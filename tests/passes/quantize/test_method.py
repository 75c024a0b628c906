"""``quantize{method=gptq}`` on whole models: closer than rounding to nearest, and as runnable."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from support.graphs import apply, parse, run

from bitfold.models.tiny import TINY, sample_feeds
from bitfold.passes.canonicalize.canonicalize import Canonicalize
from bitfold.passes.quantize.quantize import Quantize
from bitfold.runtime.errors import CalibrationError
from bitfold.runtime.execution import open_session

RNG = np.random.default_rng(0)


def f(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


MIXER = f(6, 64)
WEIGHTS = {"MatMul": (f(64, 48), f(48, 64)), "Conv": (f(48, 64, 3, 3), f(64, 48, 1, 1))}


def blended(count: int, channels: int, *pixels: int) -> np.ndarray:
    """Rows, or images, whose channels hang together."""
    rows = f(count, *pixels, 6) @ MIXER + 0.2 * f(count, *pixels, channels)
    return np.ascontiguousarray(np.moveaxis(rows, -1, 1))


def chain(op: str) -> ir.Model:
    first, second = WEIGHTS[op]
    if op == "MatMul":
        head = "g (float[n, 64] x) => (float[n, 64] y)"
        body = "a = MatMul(x, w1) b = Tanh(a) y = MatMul(b, w2)"
    else:
        head = "g (float[n, 64, h, w] x) => (float[n, 64, p, q] y)"
        body = "a = Conv <pads = [1, 1, 1, 1]> (x, w1) b = Tanh(a) y = Conv(b, w2)"
    return parse(f"{head} {{ {body} }}", w1=first, w2=second)


def error(op: str, shape: tuple[int, ...], item: Quantize) -> float:
    """Noise over signal on other inputs than those that the pass saw."""
    model, feeds = chain(op), {"x": blended(64, *shape)}
    expected = run(model, feeds)["y"]
    apply(item, model, [{"x": blended(128, *shape)}, {"x": blended(128, *shape)}])
    found = run(model, feeds)["y"]
    return float(np.square(found - expected).sum() / np.square(expected).sum())


@pytest.mark.parametrize(("op", "shape"), [("MatMul", (64,)), ("Conv", (64, 8, 8))])
def test_closer_than_nearest(op: str, shape: tuple[int, ...]) -> None:
    plain = Quantize(weights="int3", acts="none")
    nearest = error(op, shape, plain)
    assert error(op, shape, replace(plain, method="gptq", sequential=False)) < 0.6 * nearest
    assert error(op, shape, replace(plain, method="gptq")) < 0.6 * nearest


def test_the_report_tells_what_outputs_lose() -> None:
    rows = blended(256, 64)
    model = chain("MatMul")
    item = Quantize(weights="int3", acts="none", method="gptq", exclude=("w2",))
    entry = apply(item, model, [{"x": rows}])
    (change,) = entry.changes
    told = float(change.text.split("output ")[1].removesuffix(" dB"))
    exact = rows @ WEIGHTS["MatMul"][0]
    lost = open_session(model, outputs=["a"]).run({"x": rows})["a"] - exact
    expected = 10 * np.log10(np.square(exact).sum() / np.square(lost).sum())
    assert told == pytest.approx(expected, abs=0.1)


def test_a_weight_read_at_two_depths() -> None:
    """It meets the inputs of both, and is quantized once."""
    model = parse(
        "g (float[n, 64] x) => (float[n, 64] y) { a = MatMul(x, w) b = Tanh(a) y = MatMul(b, w) }",
        w=f(64, 64),
    )
    entry = apply(Quantize(method="gptq"), model, [{"x": blended(128, 64)}])
    assert len(entry.sites) == 2
    assert [node.op_type for node in model.graph].count("DequantizeWeight") == 1


@pytest.mark.parametrize("name", list(TINY))
def test_tiny_models(name: str) -> None:
    """Every site that rounding to nearest finds, and the same codes each time."""
    first, again, nearest = models = [TINY[name](0) for _ in range(3)]
    for model in models:
        apply(Canonicalize(), model)
    feeds = [sample_feeds(name, 0), sample_feeds(name, 1)]
    plain = apply(Quantize(), nearest, feeds)
    entry = apply(Quantize(method="gptq"), first, feeds)
    apply(Quantize(method="gptq"), again, feeds)
    assert {each.site for each in entry.sites} == {each.site for each in plain.sites}
    differs = False
    for key, value in first.graph.initializers.items():
        array = value.const_value.numpy()
        np.testing.assert_array_equal(array, again.graph.initializers[key].const_value.numpy())
        other = nearest.graph.initializers[key].const_value.numpy()
        differs |= not np.array_equal(array, other)
    assert differs


def test_without_inputs() -> None:
    with pytest.raises(CalibrationError, match="method=gptq needs inputs"):
        apply(Quantize(method="gptq"), chain("MatMul"))
