"""The masked layout: for weights of which many are zero, a bit each and the codes of the others.

Tiles, chunks and lanes are those of ``runtime/layouts/tiles``.  A chunk of 32 input channels is
eight steps of four, and a step of a tile has 64 weights: byte ``4 * lane + j`` stands for input
channel ``4 * step + j`` of that lane.  The bytes are

1. a mask for every step, ``[T, C, 8]`` little-endian integers of 64 bits: bit i is set where
   weight i is kept.  A weight whose bit is not set is zero, whatever its format;
2. the lines of every chunk, ``[T, C, bits]``, one behind the other.  The codes that a step keeps
   move together, in order, to the first of its 64 places, and are then packed just as in the
   dense layout.  Each line ends behind the longest of the steps that share it;
3. 64 bytes of zeros, so that any line can be read as 64 bytes.

So a dense chunk of b bits takes ``64 * b`` bytes, and one of which a share p is kept about
``64 + 64 * b * p``.  Sparsity that is spread evenly (2 of each 4 inputs, say) wastes nothing.
"""

from __future__ import annotations

import numpy as np

from bitfold.runtime.layouts.tiles import (
    CHUNK,
    STEPS,
    TILE,
    by_rows,
    by_steps,
    packed_lines,
    steps_in_lines,
    unpacked_lines,
)

MASKED_VERSION = 4
"""The operators' attribute ``layout`` for these bytes."""

PLACES = 4 * TILE
"""Weights of a step, bytes of a line, and the zeros at the end."""

TILES_AT_ONCE = 32


def pack_masked(codes: np.ndarray, kept: np.ndarray, bits: int) -> np.ndarray:
    """Pack codes [N, K] (uint8) where ``kept`` (bool [N, K]) into uint8 bytes.

    Raises:
        ValueError: the shapes differ, or a code that is kept does not fit in ``bits`` bits.
    """
    if codes.shape != kept.shape:
        raise ValueError(f"expected kept of shape {codes.shape}, found {kept.shape}")
    masks, lines = [], []
    for first in range(0, len(codes), TILES_AT_ONCE * TILE):
        rows = slice(first, first + TILES_AT_ONCE * TILE)
        some = _steps(kept[rows])
        masks.append(np.packbits(some, axis=-1, bitorder="little").reshape(-1))
        lines.append(_lines(_steps(codes[rows]), some, bits))
    return np.concatenate([*masks, *lines, np.zeros(PLACES, np.uint8)])


def masked_size(kept: np.ndarray, bits: int) -> int:
    """Bytes that :func:`pack_masked` makes of codes of ``bits`` bits where ``kept`` [N, K]."""
    size = PLACES
    for first in range(0, len(kept), TILES_AT_ONCE * TILE):
        steps = _steps(kept[first : first + TILES_AT_ONCE * TILE])
        size += steps.size // 8 + int(line_lengths(steps, bits).sum())
    return size


def unpack_masked(packed: np.ndarray, n: int, k: int, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """The inverse of :func:`pack_masked`: codes uint8 [N, K], 0 where not kept, and kept.

    Raises:
        ValueError: ``packed`` does not have the size that the shape and its masks call for.
    """
    tiles, chunks = -(-n // TILE), -(-k // CHUNK)
    steps = tiles * chunks * STEPS
    if packed.size < steps * STEPS + PLACES:
        raise ValueError(f"{steps} masks of 8 bytes and {PLACES} bytes: found {packed.size}")
    bytes_of_masks = packed[: steps * STEPS].reshape(tiles, chunks, STEPS, 8)
    kept = np.unpackbits(bytes_of_masks, axis=-1, bitorder="little").astype(bool)
    used = np.arange(PLACES) < line_lengths(kept, bits)[..., None]
    size = steps * STEPS + int(used.sum()) + PLACES
    if packed.size != size:
        raise ValueError(f"{n} x {k} codes with these masks take {size} bytes, not {packed.size}")
    lines = np.zeros(used.shape, np.uint8)
    lines[used] = packed[steps * STEPS : -PLACES]
    together = unpacked_lines(lines)
    codes = np.zeros(kept.shape, np.uint8)
    codes[kept] = together[np.arange(PLACES) < kept.sum(-1)[..., None]]
    return _rows(codes, n, k), _rows(kept, n, k)


def line_lengths(kept: np.ndarray, bits: int) -> np.ndarray:
    """Bytes of every line [T, C, bits], for steps ``kept`` [T, C, 8, 64]."""
    counts = kept.sum(axis=-1)
    parts = [counts[..., shared].max(axis=-1) for shared in steps_in_lines(bits)]
    return np.stack(parts, axis=-1)


def _lines(codes: np.ndarray, kept: np.ndarray, bits: int) -> np.ndarray:
    """All lines of ``codes`` [T, C, 8, 64], one behind the other."""
    highest = int(codes[kept].max(initial=0))
    if highest >> bits:
        raise ValueError(f"code {highest} does not fit in {bits} bits")
    together = np.zeros_like(codes)
    together[np.arange(PLACES) < kept.sum(axis=-1)[..., None]] = codes[kept]
    lines = packed_lines(together, bits)
    used: np.ndarray = lines[np.arange(PLACES) < line_lengths(kept, bits)[..., None]]
    return used


def _steps(rows: np.ndarray) -> np.ndarray:
    """Rows [N, K] as steps [T, C, 8, 64], padded with zeros."""
    n, k = rows.shape
    tiles, chunks = -(-n // TILE), -(-k // CHUNK)
    padded = np.zeros((tiles * TILE, chunks * CHUNK), rows.dtype)
    padded[:n, :k] = rows
    return by_steps(padded)


def _rows(steps: np.ndarray, n: int, k: int) -> np.ndarray:
    """The inverse of :func:`_steps`."""
    return np.ascontiguousarray(by_rows(steps)[:n, :k])
