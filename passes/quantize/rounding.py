"""Round a weight to codes and scales: the weight math of quantization, with no graph in sight."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bitfold.passes.quantize.ranges import (
    Range,
    inverse_of,
    least_squares_ranges,
    min_max_ranges,
)
from bitfold.runtime.formats import Format
from bitfold.runtime.formats.scheme import WeightScheme

ELEMENTS_AT_ONCE = 1 << 16
"""Weights that are worked on at a time: few enough to stay in the cache."""


@dataclass(frozen=True)
class QuantizedWeight:
    """A weight W[N, K] as codes and scales: ``scales * (table[codes] - zero_points)``.

    Attributes:
        scheme: how it was quantized; scales that float16 cannot hold are float32 all the same.
        codes: uint8 [N, K].
        scales: float16 or float32 [N, G].
        zero_points: int8 [N, G], or None when symmetric.
        group_size: columns a group.
    """

    scheme: WeightScheme
    codes: np.ndarray
    scales: np.ndarray
    zero_points: np.ndarray | None
    group_size: int

    def with_rows(self, n: int) -> QuantizedWeight:
        """The same weight as [n, N * K / n]: rows side by side, whose groups must be whole."""
        zeros = None if self.zero_points is None else self.zero_points.reshape(n, -1)
        codes, scales = self.codes.reshape(n, -1), self.scales.reshape(n, -1)
        return QuantizedWeight(self.scheme, codes, scales, zeros, self.group_size)

    @property
    def nbytes(self) -> int:
        """Bytes of the codes at their own width, the scales and the zero points."""
        zeros = 0 if self.zero_points is None else self.zero_points.nbytes
        return -(-self.codes.size * self.scheme.number.bits // 8) + self.scales.nbytes + zeros

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
    number = scheme.number
    find = min_max_ranges if ranges == "minmax" else least_squares_ranges
    step = max(1, ELEMENTS_AT_ONCE // k)
    blocks = [slice(start, start + step) for start in range(0, n, step)]
    found = [
        find(grouped_rows(np.asarray(weight[rows], np.float32), size), number, scheme.symmetric)
        for rows in blocks
    ]
    scales = np.concatenate([each.scale for each in found])
    zeros = np.concatenate([each.zero for each in found])
    scales = scales.astype(scale_type(scales, scheme))
    codes = np.empty((n, k), np.uint8)
    for rows in blocks:
        # Codes are chosen after the scales' rounding, and make up for it.
        grouped = grouped_rows(np.asarray(weight[rows], np.float32), size)
        levels = encode_groups(grouped, number, Range(scales[rows], zeros[rows]))
        codes[rows] = levels.reshape(len(grouped), -1)[:, :k]
    zero_points = None if scheme.symmetric else zeros.astype(np.int8)
    return QuantizedWeight(scheme, codes, scales, zero_points, size)


def scale_type(scales: np.ndarray, scheme: WeightScheme) -> type[np.floating]:
    """The type to store ``scales`` in: float32 where the scheme's float16 does not hold them.

    That is where a scale overflows, or one that matters (a thousandth of the largest or more)
    is so small that float16 has fewer than six bits left for it.
    """
    if scheme.scale == "f32":
        return np.float32
    magnitude = np.abs(scales)
    largest = magnitude.max(initial=0.0)
    matter = magnitude[magnitude > largest / 1000]
    held = largest <= np.finfo(np.float16).max and (matter >= 2.0**-18).all()
    return np.float16 if held else np.float32


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
    inverse = inverse_of(scale)
    return number.encode(grouped * inverse + found.zero[..., None])
