"""Round a weight to codes and scales: the weight math of quantization, with no graph in sight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bitfold.passes.quantize.finders import finder
from bitfold.passes.quantize.ranges import Range, inverse_of
from bitfold.runtime.formats import Format
from bitfold.runtime.formats.scale_types import scale_values, store_scales
from bitfold.runtime.formats.scheme import WeightScheme

ELEMENTS_AT_ONCE = 1 << 16
"""Weights that are worked on at a time: few enough to stay in the cache."""


@dataclass(frozen=True)
class QuantizedWeight:
    """A weight W[N, K] as codes and scales: ``scales * (table[codes] - zero_points)``.

    Attributes:
        scheme: how it was quantized; scales that its type cannot hold are float32 all the same.
        codes: uint8 [N, K].
        scales: [N, G] of a type in ``runtime/formats/scale_types``.
        zero_points: int8 [N, G], or None when symmetric.
        group_size: columns a group.
        scale_factor: what ``e4m3`` scales are multiplied by.
        plus: another weight [N, K] that is added, where the weight is a sum.
    """

    scheme: WeightScheme
    codes: np.ndarray
    scales: np.ndarray
    zero_points: np.ndarray | None
    group_size: int
    scale_factor: float = 1.0
    plus: QuantizedWeight | None = None

    def with_rows(self, n: int) -> QuantizedWeight:
        """The same weight as [n, N * K / n]: rows side by side, whose groups must be whole."""
        zeros = None if self.zero_points is None else self.zero_points.reshape(n, -1)
        codes, scales = self.codes.reshape(n, -1), self.scales.reshape(n, -1)
        plus = None if self.plus is None else self.plus.with_rows(n)
        return replace(self, codes=codes, scales=scales, zero_points=zeros, plus=plus)

    def in_groups(self, size: int) -> QuantizedWeight:
        """The same weight in groups of ``size`` columns, where that divides its own: scales repeat.

        Groups that are whole rows may have any number of columns.
        """
        k = self.codes.shape[1]
        if self.group_size < k and self.group_size % size:
            return self
        times, groups = -(-self.group_size // size), -(-k // size)
        zeros = self.zero_points
        return replace(
            self,
            scheme=replace(self.scheme, group=size),
            scales=np.repeat(self.scales, times, 1)[:, :groups],
            zero_points=None if zeros is None else np.repeat(zeros, times, 1)[:, :groups],
            group_size=size,
        )

    def rows(self, part: slice) -> QuantizedWeight:
        """Some of the rows."""
        zeros = None if self.zero_points is None else self.zero_points[part]
        codes, scales = self.codes[part], self.scales[part]
        plus = None if self.plus is None else self.plus.rows(part)
        return replace(self, codes=codes, scales=scales, zero_points=zeros, plus=plus)

    @property
    def nbytes(self) -> int:
        """Bytes of the codes at their own width, the scales and the zero points."""
        zeros = 0 if self.zero_points is None else self.zero_points.nbytes
        plus = 0 if self.plus is None else self.plus.nbytes
        return (
            -(-self.codes.size * self.scheme.number.bits // 8) + self.scales.nbytes + zeros + plus
        )

    def dequantize(self) -> np.ndarray:
        """The float32 weight [N, K] that the codes stand for."""
        k = self.codes.shape[1]
        levels = self.scheme.number.decode(self.codes).astype(np.float32)
        if self.zero_points is not None:
            levels -= np.repeat(self.zero_points.astype(np.float32), self.group_size, 1)[:, :k]
        scales = scale_values(self.scales, self.scale_factor)
        levels *= np.repeat(scales, self.group_size, 1)[:, :k]
        if self.plus is not None:
            levels += self.plus.dequantize()
        return levels


def round_to_nearest(
    weight: np.ndarray, scheme: WeightScheme, ranges: str = "mse"
) -> QuantizedWeight:
    """Quantize ``weight`` [N, K] by rounding each value to the nearest code.

    Args:
        weight: float array; must be finite.
        scheme: format, groups and symmetry.
        ranges: how ranges are found, a key of ``FINDERS``: ``minmax`` to cover every value, ``mse``
            for the least squared error.
    """
    n, k = weight.shape
    size = scheme.group_size(k)
    number = scheme.number
    find = finder(scheme, ranges)
    step = max(1, ELEMENTS_AT_ONCE // k)
    blocks = [slice(start, start + step) for start in range(0, n, step)]
    found = [
        find(grouped_rows(np.asarray(weight[rows], np.float32), size), number, scheme.symmetric)
        for rows in blocks
    ]
    scales = np.concatenate([each.scale for each in found])
    zeros = np.concatenate([each.zero for each in found])
    stored = store_scales(scales, scheme.scale)
    scales = stored.values()
    codes = np.empty((n, k), np.uint8)
    for rows in blocks:
        # Codes are chosen after the scales' rounding, and make up for it.
        grouped = grouped_rows(np.asarray(weight[rows], np.float32), size)
        levels = encode_groups(grouped, number, Range(scales[rows], zeros[rows]))
        codes[rows] = levels.reshape(len(grouped), -1)[:, :k]
    zero_points = None if scheme.symmetric else zeros.astype(np.int8)
    return QuantizedWeight(scheme, codes, stored.array, zero_points, size, stored.factor)


def stacked(parts: Sequence[QuantizedWeight]) -> QuantizedWeight:
    """The rows of weights of one scheme and scale factor, one below the other."""
    first = parts[0]
    zeros = [part.zero_points for part in parts if part.zero_points is not None]
    return replace(
        first,
        codes=np.concatenate([part.codes for part in parts]),
        scales=np.concatenate([part.scales for part in parts]),
        zero_points=np.concatenate(zeros) if zeros else None,
    )


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
