"""Convolutional networks: ResNet, MobileNetV3 and a U-Net."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from .spec import Spec

WIDTH = 16


def settled(channels: int) -> nn.BatchNorm2d:
    """A batch norm with statistics as after training."""
    norm = nn.BatchNorm2d(channels)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.normal_(norm.bias, std=0.2)
    norm.running_mean.normal_(std=0.2)
    norm.running_var.uniform_(0.5, 1.5)
    return norm


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution without bias, padded to keep the size."""
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)


class BasicBlock(nn.Module):
    """Two convolutions beside a shortcut (He et al., 2015)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, outputs, 3, stride), settled(outputs)
        self.conv2, self.bn2 = conv(outputs, outputs, 3), settled(outputs)
        self.shortcut = nn.Sequential()
        if stride > 1:
            self.shortcut = nn.Sequential(conv(inputs, outputs, 1, stride), settled(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class ResNet(nn.Module):
    """Stem, two blocks and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(3, WIDTH, 7, 2), settled(WIDTH), nn.ReLU())
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.blocks = nn.Sequential(BasicBlock(WIDTH, WIDTH, 1), BasicBlock(WIDTH, 32, 2))
        self.head = nn.Linear(32, 40)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.blocks(self.pool(self.stem(image)))
        return self.head(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


class InvertedResidual(nn.Module):
    """Expand, depthwise, squeeze-and-excitation, project (Howard et al., 2019)."""

    def __init__(self, width: int, expanded: int, act: type[nn.Module]) -> None:
        super().__init__()
        self.expand = nn.Sequential(conv(width, expanded, 1), settled(expanded), act())
        self.depthwise = nn.Sequential(
            conv(expanded, expanded, 5, groups=expanded), settled(expanded), act()
        )
        self.reduce, self.excite = nn.Conv2d(expanded, 8, 1), nn.Conv2d(8, expanded, 1)
        self.project = nn.Sequential(conv(expanded, width, 1), settled(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.depthwise(self.expand(x))
        scale = self.excite(F.relu(self.reduce(F.adaptive_avg_pool2d(y, 1))))
        return x + self.project(F.hardsigmoid(scale) * y)


class MobileNetV3(nn.Module):
    """Stem, a ReLU6 and a hard-swish block, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(3, WIDTH, 3, 2), settled(WIDTH), nn.Hardswish())
        self.blocks = nn.Sequential(
            InvertedResidual(WIDTH, 64, nn.ReLU6), InvertedResidual(WIDTH, 64, nn.Hardswish)
        )
        self.last = nn.Sequential(conv(WIDTH, 64, 1), settled(64), nn.Hardswish())
        self.head = nn.Sequential(nn.Linear(64, 48), nn.Hardswish(), nn.Linear(48, 40))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.last(self.blocks(self.stem(image)))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Double(nn.Sequential):
    """Convolution, GroupNorm and SiLU; then the same with InstanceNorm."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, padding=1),
            nn.GroupNorm(4, outputs),
            nn.SiLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1),
            nn.InstanceNorm2d(outputs, affine=True),
            nn.SiLU(),
        )


class UNet(nn.Module):
    """One level down and up again (Ronneberger et al., 2015), with a ConvTranspose."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.bottom = Double(3, WIDTH), Double(WIDTH, 32)
        self.up = nn.ConvTranspose2d(32, WIDTH, 2, stride=2)
        self.last, self.out = Double(32, WIDTH), nn.Conv2d(WIDTH, 2, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        skip = self.down(image)
        x = self.up(self.bottom(F.max_pool2d(skip, 2)))
        return self.out(self.last(torch.cat([x, skip], 1)))


SPECS = (
    *(
        Spec(
            name,
            build,
            lambda: {"image": torch.randn(2, 3, 32, 32)},
            ("logits",),
            {"image": {0: "batch"}},
        )
        for name, build in (("resnet", ResNet), ("mobilenet_v3", MobileNetV3))
    ),
    Spec(
        "unet",
        UNet,
        lambda: {"image": torch.randn(2, 3, 16, 16)},
        ("masks",),
        {"image": {0: "batch"}},
    ),
)
