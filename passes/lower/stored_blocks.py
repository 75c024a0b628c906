"""The initializers of a weight in blocks, shared by ORT's operators that read it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from bitfold.passes.core.context import Context
from bitfold.passes.core.rewire import new_initializer
from bitfold.passes.lower.blocks import BlockedArrays, packed_zero_points


@dataclass
class StoredBlocks:
    """A weight's initializers, each made when first asked for.

    MatMulNBits and GatherBlockQuantized read the same codes [N, G, bytes]; scales and zero points,
    which are small, have a form for each.

    Attributes:
        bits: bits of a code.
        stem: what names begin with.
    """

    graph: ir.Graph
    context: Context
    arrays: BlockedArrays
    bits: int
    stem: str
    made: dict[str, ir.Value] = field(default_factory=dict)

    @property
    def groups(self) -> int:
        """Blocks of a row."""
        return self.arrays.scales.shape[1]

    @property
    def codes(self) -> ir.Value:
        """Codes uint8 [N, G, bytes]."""
        return self._add("codes", self.arrays.codes)

    @property
    def scales(self) -> ir.Value:
        """Scales f32 [N, G], for MatMulNBits."""
        return self._add("scales", self.arrays.scales)

    @property
    def scales_column(self) -> ir.Value:
        """Scales f32 [N, G, 1], for GatherBlockQuantized."""
        return self._add("scales_column", self.arrays.scales[..., None])

    @property
    def packed_zeros(self) -> ir.Value | None:
        """Zero points uint8 [N, ceil(G * bits / 8)], for MatMulNBits."""
        zeros = self.arrays.zero_points
        if zeros is None:
            return None
        return self._add("zero_points", packed_zero_points(zeros, self.bits))

    @property
    def zeros_column(self) -> ir.Value | None:
        """Zero points uint8 [N, G, 1], for GatherBlockQuantized."""
        zeros = self.arrays.zero_points
        return None if zeros is None else self._add("zero_points_column", zeros[..., None])

    def _add(self, name: str, array: np.ndarray) -> ir.Value:
        if name not in self.made:
            full = f"{self.stem}.{name}"
            self.made[name] = new_initializer(self.graph, self.context, array, full)
        return self.made[name]
