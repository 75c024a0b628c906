"""The oracle of ``LowBitConv``: NumPy, straight from the specification in ``runtime/ops``."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from bitfold.runtime.formats.scale_types import scale_values
from bitfold.runtime.layouts.conv import ConvLayout
from bitfold.runtime.layouts.tiles import unpack_codes, untile_groups
from bitfold.runtime.reference.lowbit_matmul import levels, quantize_activations


def lowbit_conv(
    x: np.ndarray,
    packed: np.ndarray,
    scales: np.ndarray,
    zero_points: np.ndarray | None = None,
    table: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    residual: np.ndarray | None = None,
    *,
    n: int,
    groups: int,
    kernel_shape: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    bits: int,
    group_size: int,
    acts: str = "int8",
    act_group_size: int = 0,
    activation: str = "none",
    clip_min: float = 0.0,
    clip_max: float = 0.0,
    out_scale: float = 1.0,
    out_shift: float = 0.0,
    scale_factor: float = 1.0,
) -> np.ndarray:
    """Y of ``LowBitConv`` [n, N, *out] in float64, for x float32 [n, C, *spatial].

    ``act_group_size`` 0 stands for all channels of a conv group.
    """
    images, channels = x.shape[:2]
    cg = channels // groups
    layout = ConvLayout(n, groups, math.prod(kernel_shape), cg, group_size)
    scales = scale_values(scales, scale_factor)
    weight = weight_of(layout, packed, scales, zero_points, table, bits)
    broken = ~np.isfinite(x)
    finite = np.where(broken, np.float32(0), x)
    pixels = np.moveaxis(finite, 1, -1)
    if acts == "int8":
        runs = pixels.reshape(-1, act_group_size or cg)
        q, s = quantize_activations(runs, runs.shape[1])
        pixels = (q.astype(np.float64) * s).reshape(pixels.shape)
    spoiled = np.moveaxis(broken, 1, -1)
    count = len(kernel_shape)
    around = [(0, 0), *((pads[i], pads[count + i]) for i in range(count)), (0, 0)]
    pixels, spoiled = np.pad(pixels.astype(np.float64), around), np.pad(spoiled, around)
    out = [
        (pixels.shape[1 + i] - dilations[i] * (kernel_shape[i] - 1) - 1) // strides[i] + 1
        for i in range(count)
    ]
    y = np.zeros((images, *out, n))
    lost = np.zeros((images, *out, n), bool)
    each = n // groups
    for tap, at in enumerate(itertools.product(*map(range, kernel_shape))):
        window = tuple(
            slice(at[i] * dilations[i], at[i] * dilations[i] + strides[i] * (out[i] - 1) + 1)
            for i in range(count)
        )
        step = tuple(slice(part.start, part.stop, strides[i]) for i, part in enumerate(window))
        for j in range(groups):
            inputs, outputs = slice(j * cg, (j + 1) * cg), slice(j * each, (j + 1) * each)
            y[..., outputs] += pixels[(slice(None), *step, inputs)] @ weight[outputs, tap].T
            bad = spoiled[(slice(None), *step, inputs)].any(axis=-1, keepdims=True)
            lost[..., outputs] |= bad
    if bias is not None:
        y += bias
    if activation == "relu":
        y = np.maximum(y, 0)
    elif activation == "clip":
        y = np.minimum(np.maximum(y, np.float32(clip_min)), np.float32(clip_max))
    elif activation == "hardswish":
        y *= np.clip(y / 6 + 0.5, 0, 1)
    y = y * out_scale + out_shift
    y[lost] = np.nan
    y = np.moveaxis(y, -1, 1)
    return y if residual is None else y + residual


def weight_of(
    layout: ConvLayout,
    packed: np.ndarray,
    scales: np.ndarray,
    zero_points: np.ndarray | None,
    table: np.ndarray | None,
    bits: int,
) -> np.ndarray:
    """The weight float64 [N, taps, cg] from the operator's inputs, scales as floats."""
    rows = layout.banks * layout.bank_rows
    codes = unpack_codes(packed.reshape(-1), rows, layout.k, bits)
    zeros = untile_groups(zero_points, rows) if zero_points is not None else None
    level = levels(codes.reshape(rows, layout.scales, -1), bits, table, zeros)
    weight = level * untile_groups(scales, rows).astype(np.float64)[:, :, None]
    banks = weight.reshape(layout.banks, layout.bank_rows, layout.taps, layout.padded_cg)
    real = banks[:, : layout.n // layout.banks, :, : layout.cg]
    return real.reshape(layout.n, layout.taps, layout.cg)
