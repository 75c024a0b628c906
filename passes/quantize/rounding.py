"""Round a weight to codes and scales: the weight math of quantization, with no graph in sight."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bitfold.passes.quantize.ranges import Range, least_squares_ranges, min_max_ranges
from bitfold.runtime.formats import Format
from bitfold.runtime.formats.scheme import WeightScheme

ROWS_AT_ONCE = 1 << 16
"""Weights that are worked on at a time: few enough to stay in the cache."""


@dataclass(frozen=True)
class QuantizedWeight:
    """A weight W[N, K] as codes and scales: ``scales * (table[codes] - zero_points)``.

    Attributes:
        scheme: how it was quantized.
        codes: uint8 [N, K].
        scales: float16 or float32 [N, G].
        zero_points: int8 [N, G], or None when symmetric.
    """

    scheme: WeightScheme
    codes: np.ndarray
    scales: np.ndarray
    zero_points: np.ndarray | None

    @property
    def group_size(self) -> int:
        """Input channels a group."""
        return self.scheme.group_size(self.codes.shape[1])

    def dequantize(self) -> np.ndarray:
        """The float32 weight [N, K] that the codes stand for."""
        k = self.codes.shape[1]
        levels = self.scheme.number.decode(self.codes).astype(np.float32)
        if self.zero_points is not None:
            levels -= np.repeat(self.zero_points.astype(np.float32), self.group_size, 1)[:, :k]
        levels *= np.repeat(self.scales.astype(np.float32), self.group_size, 1)[:, :k]
        return levels


def round_to_nearest(
    weight: np.ndarray, scheme: WeightScheme, ranges: str = "mse"
) -> QuantizedWeight:
    """Quantize ``weight`` [N, K] by rounding each value to the nearest code.

    Args:
        weight: float array; must be finite.
        scheme: format, groups and symmetry.
        ranges: ``minmax`` to cover every value, ``mse`` for the least squared error.
    """
    n, k = weight.shape
    size = scheme.group_size(k)
    groups = -(-k // size)
    number = scheme.number
    codes = np.empty((n, k), np.uint8)
    scales = np.empty((n, groups), np.float16 if scheme.scale == "f16" else np.float32)
    zeros = None if scheme.symmetric else np.empty((n, groups), np.int8)
    find = min_max_ranges if ranges == "minmax" else least_squares_ranges
    step = max(1, ROWS_AT_ONCE // k)
    for start in range(0, n, step):
        rows = slice(start, start + step)
        grouped = grouped_rows(np.asarray(weight[rows], np.float32), size)
        found = find(grouped, number, scheme.symmetric)
        stored = storable(found, scales.dtype)
        levels = encode_groups(grouped, number, stored)
        codes[rows] = levels.reshape(len(grouped), -1)[:, :k]
        scales[rows] = stored.scale
        if zeros is not None:
            zeros[rows] = stored.zero
    return QuantizedWeight(scheme, codes, scales, zeros)


def grouped_rows(weight: np.ndarray, size: int) -> np.ndarray:
    """View W[N, K] as [N, G, size]; a shorter last group repeats its row's last value.

    Repeating a value of the group keeps its range what it is without the padding.
    """
    n, k = weight.shape
    short = -k % size
    if short:
        weight = np.pad(weight, ((0, 0), (0, short)), mode="edge")
    return weight.reshape(n, -1, size)


def encode_groups(grouped: np.ndarray, number: Format, found: Range) -> np.ndarray:
    """Codes uint8 [N, G, size] of ``grouped`` [N, G, size] in the ranges ``found``."""
    scale = found.scale.astype(np.float32)[..., None]
    # A group of zeros has scale 0; any inverse will do, its codes stand for 0 times 0.
    inverse = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale != 0)
    return number.encode(grouped * inverse + found.zero[..., None])


def storable(found: Range, dtype: np.dtype) -> Range:
    """``found`` with its scales rounded to the type they are stored in.

    Codes are chosen after this, so that they make up for the rounding of the scale.
    """
    limit = np.finfo(dtype).max
    return Range(np.clip(found.scale, -limit, limit).astype(dtype), found.zero)
