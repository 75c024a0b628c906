"""What rounds a weight, apart from its graph: on any core, in any process, on any machine."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from bitfold.passes.core.parallel import ONE_AT_A_TIME, Engine
from bitfold.passes.core.targets import Target
from bitfold.passes.quantize.ada_dim import input_scales
from bitfold.passes.quantize.finders import RangeName
from bitfold.passes.quantize.keep_grid import Lossless, kept_grid
from bitfold.passes.quantize.keep_sums import keep_sums
from bitfold.passes.quantize.low_rank import LowRankStart, quantize_beside
from bitfold.passes.quantize.methods import METHODS, MethodName, method_for, quantized_by
from bitfold.passes.quantize.piece import Outcome, Piece
from bitfold.passes.quantize.quality import output_signal_to_noise, signal_to_noise
from bitfold.passes.quantize.rounding import QuantizedWeight
from bitfold.passes.quantize.weight_sum import WeightSum


@dataclass(frozen=True)
class Rounder:
    """Quantizes pieces; its fields are the options of ``quantize`` that codes depend on."""

    target: Target
    lossless: Lossless
    rank: int
    low_rank: LowRankStart
    method: MethodName
    salient: float
    ranges: RangeName

    def __call__(self, piece: Piece, engine: Engine = ONE_AT_A_TIME) -> Outcome:
        """Quantize a weight, of which nothing but these arguments tells.

        Args:
            engine: shares out the rows of one weight.
        """
        kept = kept_grid(piece.rows, piece.scheme, self.lossless, self.target, piece.conv)
        if not isinstance(kept, str):
            return Outcome(WeightSum(kept), "", signal_to_noise(piece.rows, WeightSum(kept)))
        if self.lossless == "only":
            return Outcome(None, kept)
        found = self._quantized(piece, engine)
        output = None
        if piece.gram is not None:
            output = output_signal_to_noise(piece.rows, found, piece.gram)
        return Outcome(found, kept, signal_to_noise(piece.rows, found), output)

    def _quantized(self, piece: Piece, engine: Engine) -> WeightSum:
        scheme, rows = piece.scheme.weight, piece.rows
        # At 8 bits clipping buys next to nothing, and the search takes time.
        ranges = "minmax" if scheme.number.bits == 8 else self.ranges
        method = method_for(self.method, scheme, piece.matmuls)
        options = {name: getattr(self, name) for name in METHODS[method].options}

        def codes(rows: np.ndarray, gram: np.ndarray | None = piece.gram) -> QuantizedWeight:
            found = quantized_by(method, rows, gram, scheme, ranges, engine, **options)
            if self.target == "ort" and found.plus is not None:
                # Its operators have no input scale for a row longer than a block.
                found = replace(found, plus=found.plus.in_groups(found.group_size))
            return found

        if piece.matmuls and self._has_branch(piece.shape):
            return WeightSum(*quantize_beside(rows, piece.gram, self.rank, self.low_rank, codes))
        if METHODS[method].scaled and piece.matmuls:
            scales = input_scales(rows, piece.gram, scheme, ranges)
            if scales is not None:
                gram = None if piece.gram is None else piece.gram * np.outer(scales, scales)
                return WeightSum(codes(rows / scales, gram), None, scales)
        quantized = codes(rows)
        return WeightSum(keep_sums(rows, quantized) if piece.depthwise else quantized)

    def _has_branch(self, shape: tuple[int, int]) -> bool:
        """Whether a weight [N, K] gets a branch, and one of fewer numbers than it has."""
        n, k = shape
        return 0 < self.rank * (n + k) < n * k
