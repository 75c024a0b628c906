"""A tiny MobileNet: depthwise convolutions, BatchNorm, squeeze-and-excitation, ReLU6, HardSwish.

As exported for training or with folding off, so that BatchNormalization is still there
(architecture: Howard et al., 2019, arXiv 1905.02244; squeeze-and-excitation: Hu et al., 2017,
arXiv 1709.01507).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bitfold.models.scope import Scope
from bitfold.models.tiny.draw import Draw
from bitfold.models.tiny.parts import close_graph, gemm, open_graph, weight

DIM, HIDDEN, LAST, CLASSES, IMAGE = 32, 64, 128, 16, 32


@dataclass(frozen=True)
class _Block:
    kernel: int
    activation: str
    squeeze: bool


BLOCKS = (_Block(3, "relu6", False), _Block(3, "relu6", True), _Block(5, "hardswish", True))


def cnn(seed: int, outliers: bool = True) -> ir.Model:
    """Builds the classifier: `input` f32[batch, 3, height, width] → `logits` f32[batch, 16].

    Args:
        seed: determines every weight.
        outliers: whether the stream between the inverted residuals has outlier channels.
    """
    return _Builder(Draw(seed, 4), outliers).build()


class _Builder:
    def __init__(self, draw: Draw, outliers: bool) -> None:
        self.draw = draw
        self.scales = draw.channel_scales(DIM, outliers)
        self.builder, self.root = open_graph(17)

    def build(self) -> ir.Model:
        shape: list[int | str] = ["batch", 3, "height", "width"]
        x = self.builder.input("input", ir.DataType.FLOAT, shape)
        # The stem's stream is linear, as between inverted residuals: only Add touches it.
        x = self._conv(self.root, "features.0", x, self._kernel(DIM, 3, 3), stride=2, writes=True)
        for i, block in enumerate(BLOCKS, start=1):
            name = f"features.{i}"
            x = self._residual(self.root.child(name), name, x, block)
        at, name = self.root, f"features.{len(BLOCKS) + 1}"
        x = self._conv(at, name, x, self._reader(LAST), activation="hardswish")
        x = at.add("Flatten", at.child("avgpool").add("GlobalAveragePool", x), axis=1)
        w, bias = self.draw.linear(CLASSES, LAST, gain=3.0), self.draw.normal(CLASSES, std=0.1)
        logits = gemm(at.child("classifier"), "classifier", x, w, bias, out="logits")
        return close_graph(self.builder, [(logits, ["batch", CLASSES])])

    def _residual(self, at: Scope, name: str, x: ir.Value, block: _Block) -> ir.Value:
        act = block.activation
        h = self._conv(at, f"{name}.conv.0", x, self._reader(HIDDEN), activation=act)
        depthwise = self._kernel(HIDDEN, 1, block.kernel)
        h = self._conv(at, f"{name}.conv.1", h, depthwise, groups=HIDDEN, activation=act)
        if block.squeeze:
            h = self._squeeze(at.child("se"), f"{name}.se", h)
        h = self._conv(at, f"{name}.conv.2", h, self._kernel(DIM, HIDDEN, 1), writes=True)
        return at.add("Add", x, h)

    def _squeeze(self, at: Scope, name: str, x: ir.Value) -> ir.Value:
        s = at.add("GlobalAveragePool", x)
        for part, out, into in (("fc1", HIDDEN // 4, HIDDEN), ("fc2", HIDDEN, HIDDEN // 4)):
            w = weight(at, f"{name}.{part}.weight", self._kernel(out, into, 1))
            bias = weight(at, f"{name}.{part}.bias", self.draw.normal(out, std=0.1))
            s = at.child(part).add("Conv", s, w, bias, kernel_shape=[1, 1])
            s = at.add("Relu", s) if part == "fc1" else at.add("HardSigmoid", s, alpha=1 / 6)
        return at.add("Mul", s, x)

    def _conv(
        self,
        at: Scope,
        name: str,
        x: ir.Value,
        kernel: np.ndarray,
        stride: int = 1,
        groups: int = 1,
        activation: str = "",
        writes: bool = False,
    ) -> ir.Value:
        """Conv, BatchNormalization and an activation. kernel: f32[out, in/groups, k, k]."""
        path = at.child(name.rpartition(".conv.")[2] if ".conv." in name else name)
        size, channels = kernel.shape[-1], kernel.shape[0]
        x = path.child("conv").add(
            "Conv",
            x,
            weight(at, f"{name}.0.weight", kernel),
            dilations=[1, 1],
            group=groups,
            kernel_shape=[size, size],
            pads=[size // 2] * 4,
            strides=[stride, stride],
        )
        scales = self.scales if writes else np.float32(1)
        statistics = {
            "weight": self.draw.uniform(channels, low=0.7, high=1.3) * scales,
            "bias": self.draw.normal(channels, std=0.3) * scales,
            "running_mean": self.draw.normal(channels, std=0.2),
            "running_var": self.draw.uniform(channels, low=0.5, high=1.5),
        }
        values = [weight(at, f"{name}.1.{part}", array) for part, array in statistics.items()]
        x = path.child("norm").add("BatchNormalization", x, *values, epsilon=1e-5, momentum=0.9)
        if activation == "relu6":
            return path.add("Clip", x, 0.0, 6.0)
        return path.add("HardSwish", x) if activation == "hardswish" else x

    def _kernel(self, out: int, into: int, size: int) -> np.ndarray:
        # √2: half of what comes in was cut away by the activation before.
        return self.draw.linear(out, into * size**2, gain=2**0.5).reshape(out, into, size, size)

    def _reader(self, out: int) -> np.ndarray:
        return (self.draw.linear(out, DIM) / self.scales).reshape(out, DIM, 1, 1)


def feeds(rng: np.random.Generator, batch: int, length: int) -> dict[str, np.ndarray]:
    """Noise images; `length` means nothing here."""
    return {"input": rng.standard_normal((batch, 3, IMAGE, IMAGE)).astype(np.float32)}
