"""Unpacking the masked layout with stock ops: see ``runtime/layouts/masked``."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from bitfold.runtime.layouts.masked import PLACES
from bitfold.runtime.layouts.tiles import STEPS, Piece, steps_in_lines
from bitfold.runtime.ops.body import Body
from bitfold.runtime.ops.packed_lines import in_rows, unpacked_codes


def unpacked_masked(
    body: Body, packed: ir.Value, tiles: int, chunks: int, bits: int
) -> tuple[ir.Value, ir.Value]:
    """Add the nodes that give codes u8 and kept (bool), both [16 * tiles, 32 * chunks].

    Codes that are not kept are any.
    """
    steps = tiles * chunks * STEPS
    masks = body.reshape(body.slice(packed, 0, 0, steps * STEPS), steps, STEPS, 1)
    shifted = body("BitShift", masks, body.bytes(np.arange(8)), direction="RIGHT")
    kept = body.reshape(body("BitwiseAnd", shifted, body.bytes(np.array(1))), steps, PLACES)
    counted = body("Cast", kept, to=ir.DataType.INT64)
    rank = body("CumSum", counted, body.ints(1), exclusive=1)
    counts = body("ReduceSum", counted, body.ints(1), keepdims=0)
    # Where every line begins, [T * C, bits].
    longest = []
    for shared in steps_in_lines(bits):
        some = body("Gather", body.reshape(counts, -1, STEPS), body.ints(*shared), axis=1)
        longest.append(body("ReduceMax", some, body.ints(1)))
    lengths = body.reshape(body("Concat", *longest, axis=1), -1)
    starts = body("CumSum", lengths, body.ints(0), exclusive=1)
    starts = body.reshape(body("Add", starts, body.ints(steps * STEPS)), tiles * chunks, bits)
    ranks = body.reshape(rank, -1, STEPS, PLACES)

    def line_of(piece: Piece) -> ir.Value:
        start = body("Gather", starts, body.ints(*piece.line.tolist()), axis=1)
        place = body("Add", body.reshape(start, -1, STEPS, 1), ranks)
        return body("Gather", packed, place)

    codes = in_rows(body, unpacked_codes(body, bits, line_of), tiles, chunks)
    return codes, body("Cast", in_rows(body, kept, tiles, chunks), to=ir.DataType.BOOL)
