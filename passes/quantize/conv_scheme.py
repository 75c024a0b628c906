"""How a convolution is quantized: groups within a tap, an input scale per pixel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from bitfold.passes.analysis.conv_shape import ConvShape
from bitfold.passes.analysis.sites import Site
from bitfold.passes.core.targets import Target
from bitfold.runtime.formats.scheme import Acts, QuantScheme, WeightScheme

ConvActs = Literal["auto", "pixel", "none"]

ORT_BLOCKS = (16, 32, 64, 128, 256)
"""Inputs that share a scale in ORT's MatMulNBits."""

ORT_SMALLEST = 1 << 13
"""Weights of a 1x1 convolution from which its matmul outweighs turning its images."""


def conv_scheme(
    recipe: QuantScheme,
    conv: ConvShape,
    acts: ConvActs,
    target: Target,
    largest_group: int = 0,
    one_pixel: bool = False,
) -> QuantScheme:
    """The scheme of a convolution under a recipe's scheme for matmuls.

    1. Groups are runs of channels within a tap: of the multiples of 16 that divide the channels
       of a convolution group, the one next to the recipe's (or ``largest_group``, if not 0 and
       smaller), else all of those channels.
    2. A depthwise weight gets 8 bits and one scale per channel, and its input stays float: its
       few weights weigh nothing, and no sum is long enough for int8 to pay.
    3. Inputs are int8, one scale per pixel and group, if the recipe's are quantized (to fewer
       bits, too: those are for matmuls) and ``acts`` says so;
       ``auto`` keeps them float where there is one pixel (``one_pixel``, as in
       squeeze-and-excitation): a gate for a whole channel is sensitive, and its product costs
       nothing; and on ORT for all but large 1x1 weights (:func:`_suits_ort`).
    """
    weight = recipe.weight
    if conv.depthwise:
        return QuantScheme(WeightScheme("int8", 0, True, weight.scale), "none")
    blocks = ORT_BLOCKS if target == "ort" and conv.taps == 1 else ()
    wanted = min(weight.group, largest_group or weight.group)
    group = nearest_group(wanted, conv.cg, blocks) if wanted else 0
    scheme = WeightScheme(weight.format, group, weight.symmetric, weight.scale)
    fit = not one_pixel and (target != "ort" or _suits_ort(conv, group))
    pixel = acts == "pixel" or (acts == "auto" and fit)
    inputs: Acts = "int8" if pixel and recipe.acts != "none" else "none"
    return QuantScheme(scheme, inputs, recipe.act_granularity)


def has_one_pixel(site: Site) -> bool:
    """Whether the input [n, C, ...] of a convolution is known to be a single pixel."""
    shape = site.data.shape
    return shape is not None and all(size == 1 for size in list(shape)[2:])


def _suits_ort(conv: ConvShape, group: int) -> bool:
    """Whether MatMulNBits, between two Transposes, is better than DequantizeLinear and Conv.

    ORT dequantizes a Conv's weight in every run.  Measured on ORT 1.31, 2 threads: 192 to 1152
    channels on 7 x 7 pixels 0.12 ms against 0.42, 96 to 24 channels on 56 x 56 0.31 against 0.16.
    """
    block = group or conv.cg
    pointwise = conv.taps == 1 and conv.groups == 1
    return pointwise and block <= ORT_BLOCKS[-1] and conv.n * conv.k >= ORT_SMALLEST


def nearest_group(wanted: int, channels: int, known: Sequence[int] = ()) -> int:
    """The multiple of 16 that divides ``channels`` and has the ratio nearest to 1 to ``wanted``.

    0 if there is none: all channels of a tap share a scale.

    Args:
        known: the sizes to choose from; any multiple of 16 by default.
    """
    sizes = [size for size in known or range(16, channels + 1, 16) if channels % size == 0]
    return min(sizes, key=lambda size: max(size / wanted, wanted / size), default=0)


def conv_rows(columns: np.ndarray, conv: ConvShape) -> np.ndarray:
    """W[n, k], columns (tap, channel), with a row for each output and tap: [n * taps, cg].

    A depthwise weight, whose taps share a scale, stays [n, taps].
    """
    return columns if conv.depthwise else columns.reshape(conv.n * conv.taps, conv.cg)
