"""Unpacking the masked layout with stock ops: see ``runtime/layouts/masked``."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from bitfold.runtime.layouts.masked import PLACES, STEPS
from bitfold.runtime.layouts.tiles import CHUNK, TILE, planes
from bitfold.runtime.ops.body import Body


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
    longest = [
        body("ReduceMax", body.reshape(counts, -1, width, 8 // width), body.ints(2), keepdims=0)
        for width in planes(bits)
    ]
    lengths = body.reshape(body("Concat", *longest, axis=1), -1)
    starts = body("CumSum", lengths, body.ints(0), exclusive=1)
    starts = body.reshape(body("Add", starts, body.ints(steps * STEPS)), tiles * chunks, bits)
    codes: ir.Value | None = None
    first = low = 0
    for width in planes(bits):
        fields = 8 // width
        start = body.reshape(body.slice(starts, 1, first, first + width), -1, width, 1, 1)
        place = body("Add", start, body.reshape(rank, -1, width, fields, PLACES))
        plane = body("Gather", packed, place)
        shifts = (np.arange(fields) * width).reshape(fields, 1)
        plane = body("BitShift", plane, body.bytes(shifts), direction="RIGHT")
        plane = body("BitwiseAnd", plane, body.bytes(np.array((1 << width) - 1)))
        if low:
            plane = body("BitShift", plane, body.bytes(np.array(low)), direction="LEFT")
        plane = body.reshape(plane, steps, PLACES)
        codes = plane if codes is None else body("BitwiseOr", codes, plane)
        first, low = first + width, low + width
    assert codes is not None, "every code has at least one plane"

    def rows(values: ir.Value) -> ir.Value:
        apart = body.reshape(values, tiles, chunks, STEPS, TILE, 4)
        return body.reshape(body.transpose(apart, 0, 3, 1, 2, 4), tiles * TILE, chunks * CHUNK)

    return rows(codes), body("Cast", rows(kept), to=ir.DataType.BOOL)
