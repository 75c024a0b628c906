"""Codes out of packed lines with stock ops: see ``runtime/layouts/tiles``."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from bitfold.runtime.layouts.tiles import CHUNK, STEPS, TILE, Piece, pieces
from bitfold.runtime.ops.body import Body


def unpacked_codes(body: Body, bits: int, line_of: Callable[[Piece], ir.Value]) -> ir.Value:
    """Add the nodes that put codes u8 [..., 8, 64] of ``bits`` bits together.

    ``line_of`` adds those that give, for each step, the line [..., 8, 64] that has its piece.
    """
    codes: ir.Value | None = None
    for piece in pieces(bits):
        part = line_of(piece)
        if piece.at.any():
            part = body("BitShift", part, body.bytes(piece.at[:, None]), direction="RIGHT")
        if (piece.mask < 255).any():
            part = body("BitwiseAnd", part, body.bytes(piece.mask[:, None]))
        if piece.low.any():
            part = body("BitShift", part, body.bytes(piece.low[:, None]), direction="LEFT")
        codes = part if codes is None else body("BitwiseOr", codes, part)
    assert codes is not None, "every code has at least one piece"
    return codes


def in_rows(body: Body, steps: ir.Value, tiles: int, chunks: int) -> ir.Value:
    """Steps [T * C * 8 * 64] in any shape as rows [16 * T, 32 * C]."""
    apart = body.reshape(steps, tiles, chunks, STEPS, TILE, 4)
    return body.reshape(body.transpose(apart, 0, 3, 1, 2, 4), tiles * TILE, chunks * CHUNK)
