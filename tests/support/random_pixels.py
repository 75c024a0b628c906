"""Parts of random models whose values are [batch, channels, y, x]."""

from __future__ import annotations

import numpy as np
from support.graph_builder import Builder, Made
from support.random_rows import linear


def conv(b: Builder, x: Made) -> Made:
    """A Conv: of one pixel or of nine, dense, in groups, or channel by channel."""
    channels = x.shape[1]
    groups = b.pick(tuple(dict.fromkeys(g for g in (1, 2, 4, channels) if channels % g == 0)))
    width = b.pick((8, 12, 16)) if groups < channels or channels == 1 else channels * b.pick((1, 2))
    width = width if width % groups == 0 else 2 * groups
    return _conv(b, x, width, groups, b.pick((1, 3)))


def _conv(b: Builder, x: Made, width: int, groups: int, size: int) -> Made:
    inner = x.shape[1] // groups
    kernel = b.constant(b.floats(width, inner, size, size, fan=inner * size * size))
    bias = [b.constant(b.floats(width))] if b.maybe() else []
    return b.add(
        "Conv",
        [x, kernel, *bias],
        (x.shape[0], width, *x.shape[2:]),
        kernel_shape=[size, size],
        pads=[size // 2] * 4,
        group=groups,
    )


def batch_norm(b: Builder, x: Made) -> Made:
    """BatchNormalization."""
    channels = x.shape[1]
    parameters = [1 + b.floats(channels, fan=9), b.floats(channels), b.floats(channels)]
    variance = 1 + np.abs(b.floats(channels))
    operands = [b.constant(each) for each in (*parameters, variance)]
    return b.add("BatchNormalization", [x, *operands], x.shape)


def activation(b: Builder, x: Made) -> Made:
    """A function of each element, or a slope for each channel."""
    op = b.pick(("Relu", "HardSwish", "LeakyRelu", "Sigmoid", "Clip", "PRelu", "Silu"))
    if op == "Clip":
        return b.add("Clip", [x, *(b.constant(np.float32(each)) for each in (0, 6))], x.shape)
    if op == "PRelu":
        return b.add("PRelu", [x, b.constant(b.floats(x.shape[1], 1, 1))], x.shape)
    return b.same("Mul", x, b.same("Sigmoid", x)) if op == "Silu" else b.same(op, x)


def block(b: Builder, x: Made) -> Made:
    """Two convolutions and the way around them."""
    y = activation(b, _conv(b, x, x.shape[1], 1, b.pick((1, 3))))
    y = _conv(b, y, x.shape[1], 1, 1)
    y = batch_norm(b, y) if b.maybe() else y
    y = b.same("Add", x, y)
    return b.same("Relu", y) if b.maybe() else y


def bottleneck(b: Builder, x: Made) -> Made:
    """Expand, channel by channel, squeeze, project: an inverted residual."""
    hidden = 2 * x.shape[1]
    y = activation(b, _conv(b, x, hidden, 1, 1))
    y = activation(b, _conv(b, y, hidden, hidden, 3))
    y = squeeze(b, y) if b.maybe() else y
    return b.same("Add", _conv(b, y, x.shape[1], 1, 1), x)


def squeeze(b: Builder, x: Made) -> Made:
    """Squeeze and excite."""
    y = b.add("GlobalAveragePool", [x], (*x.shape[:2], 1, 1))
    y = b.same("Relu", _conv(b, y, 4, 1, 1))
    y = b.same("Sigmoid", _conv(b, y, x.shape[1], 1, 1))
    return b.same("Mul", *b.pick(((x, y), (y, x))))


def pool(b: Builder, x: Made) -> Made:
    """Means or maxima, in place."""
    op = b.pick(("AveragePool", "MaxPool"))
    return b.add(op, [x], x.shape, kernel_shape=[3, 3], pads=[1] * 4)


def resized(b: Builder, x: Made) -> Made:
    """Twice the size, and a means to come back."""
    scales = b.constant(np.array([1, 1, 2, 2], np.float32))
    big = (*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
    y = b.add("Resize", [x, None, scales], big, mode=b.pick(("nearest", "linear")))
    y = activation(b, y)
    return b.add("MaxPool", [y], x.shape, kernel_shape=[2, 2], strides=[2, 2])


def shuffled(b: Builder, x: Made) -> Made:
    """Channels of two groups in turn, as ShuffleNet has them; perhaps only of a half."""
    half, odd = divmod(x.shape[1], 2)
    if odd:
        return x
    if b.maybe():
        first, second = b.split(x, (half, half), 1)
        y = b.joined([first, _conv(b, second, half, 1, 1)], 1)
    else:
        y = x
    wide = b.reshape(y, x.shape[0], 2, half, *x.shape[2:])
    return b.reshape(b.transpose(wide, 0, 2, 1, 3, 4), *x.shape)


def unshuffled(b: Builder, x: Made) -> Made:
    """Pixels to channels and back, by Reshape and Transpose or in one operator."""
    batch, channels, height, width = x.shape
    small = (batch, 4 * channels, height // 2, width // 2)
    if b.maybe():
        y = b.add("SpaceToDepth", [x], small, blocksize=2)
        y = _conv(b, y, small[1], 1, 1)
        return b.add("DepthToSpace", [y], x.shape, blocksize=2, mode=b.pick(("DCR", "CRD")))
    y = b.reshape(x, batch, channels, height // 2, 2, width // 2, 2)
    y = b.reshape(b.transpose(y, 0, 1, 3, 5, 2, 4), *small)
    y = _conv(b, y, small[1], b.pick((1, 2)), 1)
    y = b.reshape(y, batch, channels, 2, 2, height // 2, width // 2)
    return b.reshape(b.transpose(y, 0, 1, 4, 2, 5, 3), *x.shape)


def joined(b: Builder, x: Made) -> Made:
    """Dense connections: what is computed beside what it is computed from."""
    y = b.joined([x, activation(b, _conv(b, x, 8, 1, 1))], 1)
    return _conv(b, y, b.pick((x.shape[1], 12)), 1, 1)


def group_norm(b: Builder, x: Made) -> Made:
    """GroupNorm as exporters write it."""
    batch, channels = x.shape[:2]
    if channels % 2:
        return x
    rows = int(np.prod(x.shape[1:])) // 2
    y = b.reshape(x, batch, 2, rows)
    ones = [b.constant(np.full(2, each, np.float32)) for each in (1, 0)]
    y = b.reshape(b.add("InstanceNormalization", [y, *ones], y.shape), *x.shape)
    gain, bias = (b.constant(1 + b.floats(channels, 1, 1, fan=9)) for _ in range(2))
    return b.same("Add", b.same("Mul", y, gain), bias)


def head(b: Builder, x: Made) -> Made:
    """Numbers for each image."""
    batch, channels, height, width = x.shape
    if b.maybe():
        y = b.add("Flatten", [x], (batch, channels * height * width), axis=1)
    else:
        y = b.add("GlobalAveragePool", [x], (batch, channels, 1, 1))
        y = b.add("Flatten", [y], (batch, channels), axis=1)
    return linear(b, y, 5)
