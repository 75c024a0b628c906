"""Transformers and their kin for images: ViT, ConvNeXt and Swin."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from .spec import Spec, heads_last

WIDTH, HEADS, SIZE, PATCH = 32, 4, 16, 4


class ViTBlock(nn.Module):
    """Pre-norm (Dosovitskiy et al., 2020); one projection makes query, key and value."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(WIDTH, eps=1e-6) for _ in range(2))
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.fc1, self.fc2 = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(batch, length, 3, HEADS, width // HEADS)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.proj(heads_last(F.scaled_dot_product_attention(q, k, v)))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class ViT(nn.Module):
    """Patches behind a class token, whose last state is classified."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, PATCH, stride=PATCH)
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH) * 0.1)
        self.positions = nn.Parameter(torch.randn(1, 1 + (SIZE // PATCH) ** 2, WIDTH) * 0.1)
        self.blocks = nn.Sequential(ViTBlock(), ViTBlock())
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 40)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.patches(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.positions
        return self.head(self.norm(self.blocks(x))[:, 0])


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of [batch, channels, height, width], written out."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(1 + 0.1 * torch.randn(channels))
        self.bias = nn.Parameter(0.1 * torch.randn(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt(variance + 1e-6)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class ConvNeXtBlock(nn.Module):
    """Depthwise 7 x 7, then norm and MLP with the channels last, and a layer scale."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(torch.rand(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.gamma * self.down(F.gelu(self.up(y)))
        return x + y.permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    """ConvNeXt (Liu et al., 2022): stem, block, downsampling, block, head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 24, 4, stride=4), ChannelNorm(24))
        self.block1 = ConvNeXtBlock(24)
        self.down = nn.Sequential(ChannelNorm(24), nn.Conv2d(24, 32, 2, stride=2))
        self.block2 = ConvNeXtBlock(32)
        self.norm, self.head = nn.LayerNorm(32, eps=1e-6), nn.Linear(32, 40)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.block2(self.down(self.block1(self.stem(image))))
        return self.head(self.norm(x.mean([-2, -1])))


WINDOW, SIDE = 4, 8


def partition(x: torch.Tensor) -> torch.Tensor:
    """[batch, side, side, width] to [batch * windows, window^2, width]."""
    batch, height, wide, width = x.shape
    x = x.view(batch, height // WINDOW, WINDOW, wide // WINDOW, WINDOW, width)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, WINDOW * WINDOW, width)


def unpartition(x: torch.Tensor, side: int) -> torch.Tensor:
    """The inverse of :func:`partition`."""
    count = side // WINDOW
    x = x.view(-1, count, count, WINDOW, WINDOW, x.shape[-1])
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, side, side, x.shape[-1])


def relative_index() -> torch.Tensor:
    """The row of the bias table for each pair of places in a window."""
    places = torch.stack(
        torch.meshgrid(torch.arange(WINDOW), torch.arange(WINDOW), indexing="ij")
    ).flatten(1)
    apart = (places[:, :, None] - places[:, None, :]).permute(1, 2, 0) + WINDOW - 1
    return apart[..., 0] * (2 * WINDOW - 1) + apart[..., 1]


class SwinBlock(nn.Module):
    """Attention inside windows (Liu et al., 2021), every other time of the rolled image."""

    def __init__(self, shift: int) -> None:
        super().__init__()
        self.shift = shift
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.fc1, self.fc2 = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.table = nn.Parameter(torch.randn((2 * WINDOW - 1) ** 2, HEADS) * 0.1)
        self.register_buffer("index", relative_index().flatten())
        self.register_buffer("mask", self._mask())

    def _mask(self) -> torch.Tensor:
        """[windows, window^2, window^2]: what the roll put beside each other stays apart."""
        regions = torch.zeros(1, SIDE, SIDE, 1)
        cuts = (slice(0, -WINDOW), slice(-WINDOW, -self.shift or None), slice(-self.shift, None))
        if self.shift:
            for number, (rows, columns) in enumerate((a, b) for a in cuts for b in cuts):
                regions[:, rows, columns] = number
        windows = partition(regions).squeeze(-1)
        apart = windows[:, None, :] - windows[:, :, None]
        return apart.masked_fill(apart != 0, -100.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm1(x)
        if self.shift:
            y = torch.roll(y, (-self.shift, -self.shift), (1, 2))
        y = unpartition(self.attend(partition(y)), SIDE)
        if self.shift:
            y = torch.roll(y, (self.shift, self.shift), (1, 2))
        x = x + y
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        many, length, width = x.shape
        qkv = self.qkv(x).reshape(many, length, 3, HEADS, width // HEADS).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        scores = (q * (width // HEADS) ** -0.5) @ k.transpose(-2, -1)
        bias = self.table[self.index].view(length, length, -1).permute(2, 0, 1).contiguous()
        scores = scores + bias.unsqueeze(0)
        if self.shift:
            windows = self.mask.shape[0]
            scores = scores.view(many // windows, windows, HEADS, length, length)
            scores = (scores + self.mask[None, :, None]).view(-1, HEADS, length, length)
        return self.proj(heads_last(scores.softmax(-1) @ v))


class Swin(nn.Module):
    """Two blocks, plain and shifted, then patch merging."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 2, stride=2)
        self.blocks = nn.Sequential(SwinBlock(0), SwinBlock(WINDOW // 2))
        self.norm = nn.LayerNorm(4 * WIDTH)
        self.merge = nn.Linear(4 * WIDTH, 2 * WIDTH, bias=False)
        self.head = nn.Linear(2 * WIDTH, 20)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.blocks(self.patches(image).permute(0, 2, 3, 1))
        parts = [x[:, i::2, j::2, :] for j in (0, 1) for i in (0, 1)]
        x = self.merge(self.norm(torch.cat(parts, -1).flatten(1, 2)))
        return self.head(x.mean(1))


SPECS = tuple(
    Spec(
        name,
        build,
        lambda: {"image": torch.randn(2, 3, SIZE, SIZE)},
        ("logits",),
        {"image": {0: "batch"}},
    )
    for name, build in (("vit", ViT), ("convnext", ConvNeXt), ("swin", Swin))
)
