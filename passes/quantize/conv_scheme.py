"""How a convolution is quantized: groups within a tap, an input scale per pixel."""

from __future__ import annotations

from typing import Literal

import numpy as np

from bitfold.passes.analysis.conv_shape import ConvShape
from bitfold.passes.analysis.sites import Site
from bitfold.runtime.formats.scheme import QuantScheme, WeightScheme

ConvActs = Literal["auto", "pixel", "none"]
Target = Literal["native", "ort", "portable"]


def conv_scheme(
    recipe: QuantScheme, conv: ConvShape, acts: ConvActs, target: Target, one_pixel: bool = False
) -> QuantScheme:
    """The scheme of a convolution under a recipe's scheme for matmuls.

    1. Groups are runs of channels within a tap: of the multiples of 16 that divide the channels
       of a convolution group, the one next to the recipe's, else all of those channels.
    2. A depthwise weight gets 8 bits and one scale per channel, and its input stays float: its
       few weights weigh nothing, and no sum is long enough for int8 to pay.
    3. Inputs are int8, one scale per pixel and group, if the recipe's are and ``acts`` says so;
       ``auto`` keeps them float where ORT's operators cannot take them (all but 1x1), and where
       there is one pixel (``one_pixel``, as in squeeze-and-excitation): a gate for a whole channel
       is sensitive, and its product costs nothing.
    """
    weight = recipe.weight
    if conv.depthwise:
        return QuantScheme(WeightScheme("int8", 0, True, weight.scale), "none")
    group = nearest_group(weight.group, conv.cg) if weight.group else 0
    scheme = WeightScheme(weight.format, group, weight.symmetric, weight.scale)
    fit = not one_pixel and (target != "ort" or conv.taps == 1)
    pixel = acts == "pixel" or (acts == "auto" and fit)
    return QuantScheme(scheme, recipe.acts if pixel else "none", recipe.act_granularity)


def has_one_pixel(site: Site) -> bool:
    """Whether the input [n, C, ...] of a convolution is known to be a single pixel."""
    shape = site.data.shape
    return shape is not None and all(size == 1 for size in list(shape)[2:])


def nearest_group(wanted: int, channels: int) -> int:
    """The multiple of 16 that divides ``channels`` and has the ratio nearest to 1 to ``wanted``.

    0 if there is none: all channels of a tap share a scale.
    """
    sizes = [size for size in range(16, channels + 1, 16) if channels % size == 0]
    return min(sizes, key=lambda size: max(size / wanted, wanted / size), default=0)


def conv_rows(columns: np.ndarray, conv: ConvShape) -> np.ndarray:
    """W[n, k], columns (tap, channel), with a row for each output and tap: [n * taps, cg].

    A depthwise weight, whose taps share a scale, stays [n, taps].
    """
    return columns if conv.depthwise else columns.reshape(conv.n * conv.taps, conv.cg)
