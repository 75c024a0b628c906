"""Distilled images: channels before BatchNormalizations have the statistics of training."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from support.graphs import parse

from bitfold.passes.calibrate.distill import distill
from bitfold.runtime.errors import UnsupportedError
from bitfold.runtime.execution import open_session

RNG = np.random.default_rng(0)
CHANNELS = 6


def f(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


CONSTANTS = {
    "w1": f(CHANNELS, 3, 3, 3) / 5,
    "w2": f(CHANNELS, CHANNELS, 1, 1) / 2,
    "gain": f(CHANNELS),
    "bias": f(CHANNELS),
    "m1": np.zeros(CHANNELS, np.float32),
    "v1": np.ones(CHANNELS, np.float32),
    "m2": np.zeros(CHANNELS, np.float32),
    "v2": np.ones(CHANNELS, np.float32),
    "low": np.float32(0),
    "high": np.float32(6),
}


def net(between: str = "r = Clip(n, low, high)") -> ir.Model:
    return parse(
        f"""g (float[b, 3, 12, 12] x) => (float[b, {CHANNELS}, 12, 12] y) {{
            c = Conv <pads = [1, 1, 1, 1]> (x, w1)
            n = BatchNormalization (c, gain, bias, m1, v1)
            {between}
            d = Conv (r, w2)
            y = BatchNormalization (d, gain, bias, m2, v2)
        }}""",
        **{k: v for k, v in CONSTANTS.items() if "Clip" in between or k not in ("low", "high")},
    )


def trained() -> ir.Model:
    """The net with the statistics that smooth images give."""
    model, x = net(), np.cumsum(np.cumsum(f(64, 3, 12, 12), 2), 3) / 8
    for value, mean, variance in (("c", "m1", "v1"), ("d", "m2", "v2")):
        found = open_session(model, outputs=[value], optimize=False).run({"x": x})[value]
        for name, array in ((mean, found.mean((0, 2, 3))), (variance, found.var((0, 2, 3)))):
            model.graph.initializers[name].const_value = ir.tensor(array, name=name)
    return model


def away(model: ir.Model, feeds: list[dict[str, np.ndarray]]) -> float:
    """How far the statistics are from those of training, in the mean of all channels."""
    x = np.concatenate([each["x"] for each in feeds])
    values = {name: each.const_value.numpy() for name, each in model.graph.initializers.items()}
    found = open_session(model, outputs=["c", "d"], optimize=False).run({"x": x})
    parts = []
    for value, layer in zip(found.values(), "12", strict=True):
        deviation = np.sqrt(values[f"v{layer}"])
        parts.append((value.mean((0, 2, 3)) - values[f"m{layer}"]) / deviation)
        parts.append(value.std((0, 2, 3)) / deviation - 1)
    return float(np.abs(parts).mean())


def test_statistics_become_those_of_training() -> None:
    pytest.importorskip("torch")
    model = trained()
    noise = [{"x": f(1, 3, 12, 12)} for _ in range(8)]
    feeds = distill(model, images=8, steps=100)
    assert [each["x"].shape for each in feeds] == [(1, 3, 12, 12)] * 8
    assert away(model, feeds) < 0.25 * away(model, noise)
    again = distill(model, images=8, steps=100)
    assert all(np.array_equal(a["x"], b["x"]) for a, b in zip(feeds, again, strict=True))


OPERATORS = [
    "r = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (n)",
    "r = AveragePool <kernel_shape = [3, 3], pads = [0, 1, 2, 1]> (n)",
    'r = AveragePool <kernel_shape = [2, 2], auto_pad = "SAME_UPPER"> (n)',
    "r = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1> (n)",
    "r = HardSigmoid <alpha = 0.3> (n)",
    "r = HardSwish (n)",
    "p = GlobalAveragePool(n) s = Sigmoid(p) r = Mul(n, s)",
    "r = Identity(n)",
]


@pytest.mark.parametrize("between", OPERATORS)
def test_operators_are_those_of_the_standard(between: str) -> None:
    torch = pytest.importorskip("torch")
    from bitfold.passes.calibrate.torch_graph import TorchGraph

    model, x = net(between), f(2, 3, 12, 12)
    values = ir.convenience.create_value_mapping(model.graph, include_subgraphs=False)
    graph = TorchGraph(model.graph, [values["r"], values["y"]])
    found = graph.run({values["x"]: torch.from_numpy(x)})
    expected = open_session(model, outputs=["r", "y"], optimize=False).run({"x": x})
    for value, name in zip(found, ("r", "y"), strict=True):
        np.testing.assert_allclose(value.numpy(), expected[name], rtol=1e-4, atol=1e-5)


def test_what_has_no_gradient_is_named() -> None:
    pytest.importorskip("torch")
    with pytest.raises(UnsupportedError, match="no gradient through Erf"):
        distill(net("r = Erf(n)"), images=2, steps=1)


def test_a_model_that_tells_nothing_of_its_images() -> None:
    model = parse(
        "g (float[b, 3, 8, 8] x) => (float[b, 6, 8, 8] y) { y = Conv(x, w) }", w=f(6, 3, 1, 1)
    )
    with pytest.raises(UnsupportedError, match="found 1 inputs and 0 of these"):
        distill(model)


def test_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    there = builtins.__import__

    def without(name: str, *rest: Any, **options: Any) -> Any:
        if name == "torch":
            raise ImportError(name)
        return there(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UnsupportedError, match="the package torch"):
        distill(net())
