"""What ``LowBitMatMul`` and ``LowBitGather`` share: unpacking the layout with stock ops."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from bitfold.runtime.layouts.masked import MASKED_VERSION
from bitfold.runtime.layouts.tiles import CHUNK, LAYOUT_VERSION, TILE, Piece
from bitfold.runtime.ops.body import Body
from bitfold.runtime.ops.dequantize_weight import dequantized
from bitfold.runtime.ops.masked import unpacked_masked
from bitfold.runtime.ops.packed_lines import in_rows, unpacked_codes
from bitfold.runtime.ops.scale_floats import ScaleKind, factor_attribute, scale_floats


@dataclass(frozen=True)
class PackedWeight:
    """The facts that the operators' attributes state about a packed weight W[N, K].

    Attributes:
        paired: gate and up rows tiled apart and interleaved, for the SwiGLU epilogue.
        scale_kind: how scales are read.
        scale_factor: what ``e4m3`` scales are multiplied by.
        masked: whether the bytes are those of the masked layout, ``LowBitMatMul``'s alone.
    """

    n: int
    k: int
    bits: int
    group_size: int
    zero_points: bool = False
    table: bool = False
    paired: bool = False
    scale_kind: ScaleKind = "float"
    scale_factor: float = 1.0
    masked: bool = False

    @property
    def groups(self) -> int:
        """Groups of input channels."""
        return -(-self.k // self.group_size)

    @property
    def tiles(self) -> int:
        """Tiles of 16 output channels."""
        return 2 * -(-(self.n // 2) // TILE) if self.paired else -(-self.n // TILE)

    def attributes(self) -> dict[str, int | float | str]:
        """The attributes that every operator on a packed weight carries."""
        return {
            "N": self.n,
            "K": self.k,
            "bits": self.bits,
            "group_size": self.group_size,
            "layout": MASKED_VERSION if self.masked else LAYOUT_VERSION,
            **factor_attribute(self.scale_kind, self.scale_factor),
        }

    def overload(self) -> str:
        """A name for the function body written for this weight."""
        flags = ("z" if self.zero_points else "") + ("t" if self.table else "")
        parts = [f"n{self.n}_k{self.k}_b{self.bits}_g{self.group_size}"] + [flags] * bool(flags)
        parts += [self.scale_kind] * (self.scale_kind != "float") + ["masked"] * self.masked
        return "_".join(parts)

    def unpacked(self, body: Body, inputs: list[ir.Value]) -> ir.Value:
        """Add the nodes that give the float weight [N, K].

        ``inputs`` are packed, scales, zero_points and table, as the operators have them.
        """
        packed, scales, zeros, table = inputs
        kept: ir.Value | None = None
        if self.masked:
            chunks = -(-self.k // CHUNK)
            codes, kept = unpacked_masked(body, packed, self.tiles, chunks, self.bits)
            codes, kept = (self._whole(body, each, chunks) for each in (codes, kept))
        else:
            codes = self._codes(body, packed)
        weight = dequantized(
            body,
            codes,
            self._per_row(body, scale_floats(body, scales, self.scale_kind)),
            self._per_row(body, zeros) if self.zero_points else None,
            table if self.table else None,
            self.k,
            self.group_size,
            self.bits,
        )
        return weight if kept is None else body("Where", kept, weight, body.floats(0.0))

    def _codes(self, body: Body, packed: ir.Value) -> ir.Value:
        chunks = -(-self.k // CHUNK)
        lines = body.reshape(packed, self.tiles, chunks, self.bits, 4 * TILE)

        def line_of(piece: Piece) -> ir.Value:
            return body("Gather", lines, body.ints(*piece.line.tolist()), axis=2)

        codes = unpacked_codes(body, self.bits, line_of)
        return self._whole(body, in_rows(body, codes, self.tiles, chunks), chunks)

    def _whole(self, body: Body, rows: ir.Value, chunks: int) -> ir.Value:
        """The N rows and K columns of ``rows`` [16 T, 32 chunks]."""
        return body.slice(self._rows(body, rows, chunks * CHUNK), 1, 0, self.k)

    def _per_row(self, body: Body, tiled: ir.Value) -> ir.Value:
        rows = body.reshape(body.transpose(tiled, 0, 2, 1), self.tiles * TILE, self.groups)
        return self._rows(body, rows, self.groups)

    def _rows(self, body: Body, rows: ir.Value, columns: int) -> ir.Value:
        """The N real rows of ``rows`` [16 T, columns], in plain order."""
        if not self.paired:
            return body.slice(rows, 0, 0, self.n)
        half = self.tiles * TILE // 2
        pairs = body.reshape(rows, self.tiles // 2, 2, TILE * columns)
        apart = body.reshape(body.transpose(pairs, 1, 0, 2), 2, half, columns)
        return body.reshape(body.slice(apart, 1, 0, self.n // 2), self.n, columns)
