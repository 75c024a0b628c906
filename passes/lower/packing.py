"""Pack a quantized weight into the kernels' layout: plain NumPy, no graph in sight."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bitfold.runtime.layouts.masked import pack_masked
from bitfold.runtime.layouts.tiles import TILE, pack_codes, tile_groups


@dataclass(frozen=True)
class PackedArrays:
    """Codes u8 [packed_size], scales [T, G, 16] and zero points i8 [T, G, 16] or None."""

    codes: np.ndarray
    scales: np.ndarray
    zero_points: np.ndarray | None


def pack_weight(
    codes: np.ndarray,
    scales: np.ndarray,
    zero_points: np.ndarray | None,
    bits: int,
    paired: bool = False,
    kept: np.ndarray | None = None,
) -> PackedArrays:
    """Pack codes [N, K], scales [N, G] and zero points [N, G].

    With ``kept``, bool [N, K], the codes go to the masked layout: the others are zero weights.

    With ``paired``, the first N/2 rows (the gate) and the others (the up projection) are tiled
    apart and their tiles alternate, so that one kernel step has both sides of a SwiGLU.
    """
    if paired:
        codes, scales = pair_rows(codes), pair_rows(scales)
        zero_points = None if zero_points is None else pair_rows(zero_points)
        kept = None if kept is None else pair_rows(kept)
    return PackedArrays(
        pack_codes(codes, bits) if kept is None else pack_masked(codes, kept, bits),
        tile_groups(scales),
        None if zero_points is None else tile_groups(zero_points),
    )


def pair_rows(rows: np.ndarray) -> np.ndarray:
    """Interleave the two halves of [N, C] in runs of 16 rows, each half padded with zeros."""
    half, columns = rows.shape[0] // 2, rows.shape[1]
    tiles = -(-half // TILE)
    padded = np.zeros((2, tiles * TILE, columns), rows.dtype)
    padded[:, :half] = rows.reshape(2, half, columns)
    alternating = padded.reshape(2, tiles, TILE, columns).transpose(1, 0, 2, 3)
    return np.ascontiguousarray(alternating.reshape(-1, columns))
