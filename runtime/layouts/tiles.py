"""The packed layout: the bytes on disk are the bytes that every ISA's kernel reads.

Output channels come in tiles of 16, input channels in chunks of 32.  With N output and K
input channels there are ``T = ceil(N / 16)`` tiles of ``C = ceil(K / 32)`` chunks, and each
chunk of b-bit codes takes ``64 * b`` bytes: b lines of 64 bytes.  A line holds 16 lanes of 4
bytes, one lane an output channel, so that a dot-product instruction (``vpdpbusd``, ``sdot``)
finds four consecutive input channels of one output in each 32-bit lane and sums nothing
across lanes.

A chunk is eight steps of four input channels: byte j of lane n belongs to input channel
``4 * step + j`` of output channel n, whatever the step and the line.  A code is cut into planes,
widest first, least significant bits first: one of 8 or 4 bits, and one of what is left of its
bits, 3, 2 or 1.  A plane of width w fills w lines of a chunk:

- of 8, 4, 2 or 1 bits: line l has ``8 / w`` steps from ``l * 8 / w`` on, each in w bits of every
  byte, the first one lowest;
- of 3 bits: line l has step ``2 * l`` in bits 0 to 2 and step ``2 * l + 1`` in bits 3 to 5.  The
  bits left over are steps 6 and 7: their upper two are bits 6 and 7 of lines 0 and 1, their lowest
  are bits 7 and 6 of line 2.

So one shift and one mask give 64 codes in dot-product order; two of eight steps of 3 bits are put
together of two lines.

Scales and zero points are tiled alike: ``[T, G, 16]`` for G groups of input channels.
Missing channels (N or K no multiple of the tile) hold code 0 and scale 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

LAYOUT_VERSION = 3
"""The operators' attribute ``layout`` for these bytes; 1 had 3 bits as planes of 2 and 1."""

TILE = 16
CHUNK = 32

STEPS = 8
"""Steps of a chunk, each of four input channels."""


@dataclass(frozen=True)
class Piece:
    """Where bits of a chunk's codes lie, by step: four arrays uint8 [8].

    Bits ``low`` and up of a step's codes are those of ``mask`` in bytes of line ``line``, taken
    from bit ``at`` on; a mask of 0 is no bits.
    """

    line: np.ndarray
    at: np.ndarray
    low: np.ndarray
    mask: np.ndarray

    def of(self, lines: np.ndarray) -> np.ndarray:
        """What lines uint8 [..., bits, P] have of the codes of all steps, [..., 8, P]."""
        fields = (lines[..., self.line, :] >> self.at[:, None]) & self.mask[:, None]
        codes: np.ndarray = fields << self.low[:, None]
        return codes

    def put(self, codes: np.ndarray, lines: np.ndarray) -> None:
        """Put these bits of codes uint8 [..., 8, P] into lines [..., bits, P], which have zeros."""
        fields = ((codes >> self.low[:, None]) & self.mask[:, None]) << self.at[:, None]
        for step in range(STEPS):
            lines[..., self.line[step], :] |= fields[..., step, :]


def pieces(bits: int) -> list[Piece]:
    """What codes of ``bits`` bits are put together of.

    Raises:
        ValueError: codes have 1 to 8 bits.
    """
    if not 1 <= bits <= 8:
        raise ValueError(f"codes have 1 to 8 bits, not {bits}")
    steps, wide, rest = np.arange(STEPS), bits & 12, bits & 3
    found = []
    for width, low in ((wide, 0), (rest if rest < 3 else 0, wide)):
        if width:
            found.append(_piece(low + steps * width // 8, steps * width % 8, low, width))
    if rest == 3:
        apart = steps >= 6
        line = wide + np.where(apart, steps - 6, steps // 2)
        at = np.where(apart, 6, steps % 2 * 3)
        found.append(_piece(line, at, wide + apart, 3 - apart))
        found.append(_piece(wide + 2, np.where(apart, 13 - steps, 0), wide, apart))
    return found


def _piece(*of_steps: npt.ArrayLike) -> Piece:
    """A piece from lines, bits, code bits and widths: one of each, or eight."""
    line, at, low, width = (np.broadcast_to(each, STEPS).astype(np.uint8) for each in of_steps)
    mask = (1 << width.astype(int)) - 1
    return Piece(line, at, low, mask.astype(np.uint8))


def steps_in_lines(bits: int) -> list[list[int]]:
    """For each line of a chunk, the steps that have bits of their codes in it."""
    steps: list[set[int]] = [set() for _ in range(bits)]
    for piece in pieces(bits):
        for step in np.flatnonzero(piece.mask):
            steps[piece.line[step]].add(int(step))
    return [sorted(each) for each in steps]


def packed_lines(codes: np.ndarray, bits: int) -> np.ndarray:
    """The lines uint8 [..., bits, P] of chunks of codes uint8 [..., 8, P]."""
    lines = np.zeros((*codes.shape[:-2], bits, codes.shape[-1]), np.uint8)
    for piece in pieces(bits):
        piece.put(codes, lines)
    return lines


def unpacked_lines(lines: np.ndarray) -> np.ndarray:
    """The inverse of :func:`packed_lines`."""
    parts = [piece.of(lines) for piece in pieces(lines.shape[-2])]
    codes: np.ndarray = np.bitwise_or.reduce(parts)
    return codes


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
    return packed_lines(by_steps(padded), bits).reshape(-1)


def by_steps(rows: np.ndarray) -> np.ndarray:
    """Rows [16 * T, 32 * C] as steps of four inputs of sixteen outputs, [T, C, 8, 64]."""
    tiles, chunks = rows.shape[0] // TILE, rows.shape[1] // CHUNK
    apart = rows.reshape(tiles, TILE, chunks, STEPS, 4).transpose(0, 2, 3, 1, 4)
    return apart.reshape(tiles, chunks, STEPS, 4 * TILE)


def by_rows(steps: np.ndarray) -> np.ndarray:
    """The inverse of :func:`by_steps`."""
    tiles, chunks = steps.shape[:2]
    apart = steps.reshape(tiles, chunks, STEPS, TILE, 4).transpose(0, 3, 1, 2, 4)
    return apart.reshape(tiles * TILE, chunks * CHUNK)


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
    lines = packed.reshape(tiles, chunks, bits, 4 * TILE)
    return np.ascontiguousarray(by_rows(unpacked_lines(lines))[:n, :k])


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
