"""EfficientNet-Lite0 as a plain torch module, under the names of its checkpoint."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from bitfold.models.efficientnet import CLASSES, IMAGE, STAGES


class SameConv(nn.Conv2d):
    """A convolution without bias that pads as TensorFlow's "same" does: more behind than before."""

    def __init__(
        self, size: int, channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__(channels, out, kernel, stride, groups=groups, bias=False)
        self.out_size = -(-size // stride)
        padding = max((self.out_size - 1) * stride + kernel - size, 0)
        before, after = padding // 2, padding - padding // 2
        self.static_padding = nn.ZeroPad2d((before, after, before, after))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.static_padding(x))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class Block(nn.Module):
    """An inverted residual block: widen, depthwise, narrow."""

    def __init__(
        self, size: int, channels: int, expand: int, out: int, kernel: int, stride: int
    ) -> None:
        super().__init__()
        hidden = channels * expand
        self.expands, self.adds = expand != 1, stride == 1 and channels == out
        if self.expands:
            self._expand_conv = SameConv(size, channels, hidden, 1)
            self._bn0 = _norm(hidden)
        self._depthwise_conv = SameConv(size, hidden, hidden, kernel, stride, groups=hidden)
        self._bn1 = _norm(hidden)
        self._project_conv = SameConv(self._depthwise_conv.out_size, hidden, out, 1)
        self._bn2 = _norm(out)

    def forward(self, start: Tensor) -> Tensor:
        x = start
        if self.expands:
            x = functional.relu6(self._bn0(self._expand_conv(x)))
        x = functional.relu6(self._bn1(self._depthwise_conv(x)))
        x = self._bn2(self._project_conv(x))
        return x + start if self.adds else x


class ImageClassifier(nn.Module):
    """Logits of pictures; see `bitfold.models.efficientnet.build_efficientnet`."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = SameConv(IMAGE, 3, 32, 3, 2)
        self._bn0 = _norm(32)
        blocks, size, channels = [], self._conv_stem.out_size, 32
        for stage in STAGES:
            for i in range(stage.blocks):
                stride = 1 if i else stage.stride
                block = Block(size, channels, stage.expand, stage.channels, stage.kernel, stride)
                blocks.append(block)
                size, channels = block._depthwise_conv.out_size, stage.channels
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = SameConv(size, channels, 1280, 1)
        self._bn1 = _norm(1280)
        self._fc = nn.Linear(1280, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        x = functional.relu6(self._bn1(self._conv_head(x)))
        return self._fc(functional.adaptive_avg_pool2d(x, 1).flatten(1))
