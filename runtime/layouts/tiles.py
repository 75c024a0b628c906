"""The packed layout: the bytes on disk are the bytes that every ISA's kernel reads.

Output channels come in tiles of 16, input channels in chunks of 32.  With N output and K
input channels there are ``T = ceil(N / 16)`` tiles of ``C = ceil(K / 32)`` chunks, and each
chunk of b-bit codes takes ``64 * b`` bytes: b lines of 64 bytes.  A line holds 16 lanes of 4
bytes, one lane an output channel, so that a dot-product instruction (``vpdpbusd``, ``sdot``)
finds four consecutive input channels of one output in each 32-bit lane and sums nothing
across lanes.

A code is cut into planes of 8, 4, 2 or 1 bits, widest first, least significant bits first:
3 bits are a 2-bit plane and, above it, a 1-bit plane.  A plane of width w fills w lines of a
chunk.  Within line l of such a plane, field f (bits ``f*w`` and up) of byte j in lane n holds
input channel ``k = l * 32 / w + 4 * f + j`` of output channel n: one shift and one mask give
64 codes in dot-product order.

Scales and zero points are tiled alike: ``[T, G, 16]`` for G groups of input channels.
Missing channels (N or K no multiple of the tile) hold code 0 and scale 0.
"""

from __future__ import annotations

import numpy as np

LAYOUT_VERSION = 1
TILE = 16
CHUNK = 32


def planes(bits: int) -> list[int]:
    """Widths of the planes that a code of ``bits`` bits is cut into, least significant first."""
    if not 1 <= bits <= 8:
        raise ValueError(f"codes have 1 to 8 bits, not {bits}")
    return [width for width in (8, 4, 2, 1) if bits & width]


def packed_size(n: int, k: int, bits: int) -> int:
    """Bytes that an [n, k] array of ``bits``-bit codes takes."""
    return -(-n // TILE) * -(-k // CHUNK) * 64 * bits


def pack_codes(codes: np.ndarray, bits: int) -> np.ndarray:
    """Pack codes [N, K] (uint8, below ``2**bits``) into uint8 bytes [packed_size].

    Raises:
        ValueError: a code does not fit in ``bits`` bits.
    """
    n, k = codes.shape
    if codes.size and int(codes.max()) >> bits:
        raise ValueError(f"code {int(codes.max())} does not fit in {bits} bits")
    tiles, chunks = -(-n // TILE), -(-k // CHUNK)
    padded = np.zeros((tiles * TILE, chunks * CHUNK), np.uint8)
    padded[:n, :k] = codes
    blocks = padded.reshape(tiles, TILE, chunks, CHUNK).transpose(0, 2, 3, 1)
    parts, low = [], 0
    for width in planes(bits):
        plane = (blocks >> low) & ((1 << width) - 1)
        fields = plane.reshape(tiles, chunks, width, 8 // width, 4, TILE)
        shifts = (np.arange(8 // width, dtype=np.uint8) * width).reshape(-1, 1, 1)
        lines = np.bitwise_or.reduce(fields << shifts, axis=3)
        parts.append(lines.transpose(0, 1, 2, 4, 3))
        low += width
    return np.ascontiguousarray(np.concatenate(parts, axis=2), dtype=np.uint8).reshape(-1)


def unpack_codes(packed: np.ndarray, n: int, k: int, bits: int) -> np.ndarray:
    """The inverse of :func:`pack_codes`: uint8 codes [N, K].

    Raises:
        ValueError: ``packed`` does not have the size that the shape calls for.
    """
    if packed.size != packed_size(n, k, bits):
        raise ValueError(
            f"{n} x {k} codes of {bits} bits take {packed_size(n, k, bits)} bytes, "
            f"found {packed.size}"
        )
    tiles, chunks = -(-n // TILE), -(-k // CHUNK)
    lines = packed.reshape(tiles, chunks, bits, TILE, 4)
    codes = np.zeros((tiles, chunks, CHUNK, TILE), np.uint8)
    first, low = 0, 0
    for width in planes(bits):
        plane = lines[:, :, first : first + width].transpose(0, 1, 2, 4, 3)
        shifts = (np.arange(8 // width, dtype=np.uint8) * width).reshape(-1, 1, 1)
        fields = (plane[:, :, :, None] >> shifts) & ((1 << width) - 1)
        codes |= (fields.reshape(tiles, chunks, CHUNK, TILE) << low).astype(np.uint8)
        first, low = first + width, low + width
    rows = codes.transpose(0, 3, 1, 2).reshape(tiles * TILE, chunks * CHUNK)
    return np.ascontiguousarray(rows[:n, :k])


def tile_groups(values: np.ndarray) -> np.ndarray:
    """Tile scales or zero points: [N, G] to [T, G, 16], missing channels zero."""
    n, groups = values.shape
    tiles = -(-n // TILE)
    padded = np.zeros((tiles * TILE, groups), values.dtype)
    padded[:n] = values
    return np.ascontiguousarray(padded.reshape(tiles, TILE, groups).transpose(0, 2, 1))


def untile_groups(tiled: np.ndarray, n: int) -> np.ndarray:
    """The inverse of :func:`tile_groups`: [T, G, 16] to [N, G]."""
    tiles, groups, _ = tiled.shape
    return np.ascontiguousarray(tiled.transpose(0, 2, 1).reshape(tiles * TILE, groups)[:n])
