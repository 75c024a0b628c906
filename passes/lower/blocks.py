"""Weights in the blocks of ORT's MatMulNBits and GatherBlockQuantized: plain NumPy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bitfold.passes.lower.neutral import NeutralWeight
from bitfold.passes.lower.stored import pack_bits


@dataclass(frozen=True)
class BlockedArrays:
    """A weight W[N, K] in G blocks of ``block`` inputs, the last one padded.

    Attributes:
        codes: uint8 [N, G, block * bits / 8]; a code is its level plus ``2**(bits - 1)``.
        scales: float32 [N, G].
        zero_points: uint8 [N, G], codes one a byte, or None for ``2**(bits - 1)``.
    """

    codes: np.ndarray
    scales: np.ndarray
    zero_points: np.ndarray | None


def blocked(weight: NeutralWeight, bits: int, block: int) -> BlockedArrays:
    """Cut ``weight`` into blocks; those shorter than its groups repeat the group's scale."""
    n, k = weight.codes.shape
    groups = -(-k // block)
    half = np.uint8(1 << (bits - 1))
    codes = weight.levels().view(np.uint8) + half  # wraps around to codes from 0
    if groups * block != k:
        # The inputs there are zeros: any code will do.
        codes = np.pad(codes, ((0, 0), (0, groups * block - k)))
    zeros = None
    if weight.zero_points is not None:
        zeros = _per_block(weight, weight.zero_points, block).view(np.uint8) + half
    return BlockedArrays(
        pack_bits(codes.reshape(n, groups, block), bits),
        _per_block(weight, weight.scales, block).astype(np.float32),
        zeros,
    )


def packed_zero_points(zeros: np.ndarray, bits: int) -> np.ndarray:
    """Zero points [N, G] as MatMulNBits reads them: uint8 [N, ceil(G * bits / 8)]."""
    return pack_bits(zeros, bits)


def _per_block(weight: NeutralWeight, groups: np.ndarray, block: int) -> np.ndarray:
    """What is given for each group, for each block."""
    blocks = -(-weight.codes.shape[1] // block)
    if block >= weight.group_size:
        return groups
    return np.repeat(groups, -(-weight.group_size // block), 1)[:, :blocks]
