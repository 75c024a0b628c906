"""The oracle of ``LowBitGather``: NumPy, straight from the specification in ``runtime/ops``."""

from __future__ import annotations

import numpy as np

from bitfold.runtime.formats.scale_types import scale_values
from bitfold.runtime.layouts.tiles import unpack_codes, untile_groups
from bitfold.runtime.reference.lowbit_matmul import levels


def lowbit_gather(
    packed: np.ndarray,
    scales: np.ndarray,
    zero_points: np.ndarray | None,
    table: np.ndarray | None,
    indices: np.ndarray,
    *,
    n: int,
    k: int,
    bits: int,
    group_size: int,
    scale_factor: float = 1.0,
) -> np.ndarray:
    """Rows of the weight, float32 [..., K], by indices [...] of which negative ones count back.

    Raises:
        IndexError: an index is not in [-n, n).
    """
    if indices.size and (indices.min() < -n or indices.max() >= n):
        raise IndexError(f"expected indices in [{-n}, {n}), found {indices.min()}, {indices.max()}")
    groups = -(-k // group_size)
    codes = np.zeros((n, groups * group_size), np.uint8)
    codes[:, :k] = unpack_codes(packed.reshape(-1), n, k, bits)
    zeros = untile_groups(zero_points, n) if zero_points is not None else None
    weight = levels(codes.reshape(n, groups, group_size), bits, table, zeros).astype(np.float32)
    weight *= untile_groups(scale_values(scales, scale_factor), n)[:, :, None]
    return weight.reshape(n, -1)[:, :k][indices]
