"""How scales are stored: five types, and the float32 numbers that each stands for.

``bf16`` is the upper half of a float32.  ``e8m0`` is a power of two, the exponent field of one, as
MX formats have it (OCP Microscaling Formats v1.0, section 5.4.1); it is stored as uint8, and its
code 255, a NaN, is not used.  ``e4m3`` is an 8-bit float that a factor for the whole weight
multiplies, as in NVFP4 (Pretraining Large Language Models with NVFP4, arXiv 2509.25149).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import ml_dtypes
import numpy as np

ScaleType = Literal["f16", "f32", "bf16", "e8m0", "e4m3"]

DTYPES: dict[str, np.dtype] = {
    "f16": np.dtype(np.float16),
    "f32": np.dtype(np.float32),
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "e8m0": np.dtype(np.uint8),
    "e4m3": np.dtype(ml_dtypes.float8_e4m3fn),
}
"""Scale type to the type of its array, which in a graph says what the scales are."""

F16_MOST, E4M3_MOST = 65504.0, 448.0
BF16_MOST = 2.0**128 - 2.0**120
E8M0_BIAS, E8M0_MOST = 127, 254


@dataclass(frozen=True)
class StoredScales:
    """Scales as they are stored.

    Attributes:
        array: of one of :data:`DTYPES`.
        factor: what ``e4m3`` scales are multiplied by; 1 for others.
    """

    array: np.ndarray
    factor: float = 1.0

    def values(self) -> np.ndarray:
        """The scales, float32, as every kernel computes them."""
        return scale_values(self.array, self.factor)

    def like(self, scales: np.ndarray) -> StoredScales:
        """Other ``scales``, stored as these are: in the same type, with the same factor."""
        if self.array.dtype == np.uint8:
            return StoredScales(_powers_of_two(scales))
        most = float(ml_dtypes.finfo(self.array.dtype).max)
        shares = np.clip(scales / np.float32(self.factor), -most, most)
        return StoredScales(shares.astype(self.array.dtype), self.factor)


def scale_values(array: np.ndarray, factor: float = 1.0) -> np.ndarray:
    """The float32 numbers that stored scales stand for."""
    if array.dtype == np.uint8:
        exponents = np.minimum(array, E8M0_MOST).astype(np.int32) - E8M0_BIAS
        powers: np.ndarray = np.ldexp(np.float32(1), exponents)
        return powers
    values = array.astype(np.float32)
    return values if factor == 1 else values * np.float32(factor)


def store_scales(scales: np.ndarray, kind: str) -> StoredScales:
    """Round float32 ``scales`` to the nearest of a type; of powers of two, the nearest as factors.

    Where the type cannot hold them they stay float32: float16 and bfloat16 that overflow, and
    float16 with less than six bits left for a scale that matters, a thousandth of the largest or
    more.

    Args:
        scales: finite; not negative for ``e8m0``.
        kind: a key of :data:`DTYPES`.
    """
    magnitude = np.abs(scales)
    largest = float(magnitude.max(initial=0.0))
    if kind == "e8m0":
        return StoredScales(_powers_of_two(scales))
    if kind == "e4m3":
        factor = float(np.float32(np.clip(largest / E4M3_MOST, 1e-30, 1e30))) if largest else 1.0
        return StoredScales((scales / np.float32(factor)).astype(DTYPES[kind]), factor)
    if kind == "f16":
        matter = magnitude[magnitude > largest / 1000]
        if largest > F16_MOST or (matter < 2.0**-18).any():
            kind = "f32"
    elif kind == "bf16" and largest > BF16_MOST:
        kind = "f32"
    return StoredScales(scales.astype(DTYPES[kind]))


def _powers_of_two(scales: np.ndarray) -> np.ndarray:
    """The exponent fields of the powers of two nearest to ``scales``."""
    mantissa, exponent = np.frexp(scales.astype(np.float32))  # mantissa in [0.5, 1)
    fields = exponent - 1 + (mantissa > np.sqrt(np.float32(0.5))) + E8M0_BIAS
    fields = np.where(scales > 0, fields, 0)
    return np.clip(fields, 0, E8M0_MOST).astype(np.uint8)
