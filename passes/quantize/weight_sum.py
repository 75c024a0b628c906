"""A quantized weight as the sum of its parts."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from bitfold.passes.quantize.low_rank import Branch
from bitfold.passes.quantize.packed_size import added_nbytes
from bitfold.passes.quantize.rounding import QuantizedWeight


@dataclass(frozen=True)
class WeightSum:
    """A weight [N, K] as codes and scales, perhaps with a branch beside or scales of its inputs.

    Attributes:
        codes: the codes and scales, perhaps a sum themselves.
        branch: what is added; it reads the inputs before they are rounded.
        input_scales: what the columns of the codes are multiplied by, float32 [K]; not with a
            branch.
    """

    codes: QuantizedWeight
    branch: Branch | None = None
    input_scales: np.ndarray | None = None

    def beside(self) -> str:
        """What is beside the first codes, as people write it: empty for nothing."""
        text = "" if self.codes.plus is None else f" + {self.codes.plus.scheme}"
        text += "" if self.branch is None else f" + rank {self.branch.rank}"
        return text + ("" if self.input_scales is None else " x input scales")

    def nbytes_beside(self, shape: tuple[int, int]) -> int:
        """Bytes of what is beside the first codes of a weight [N, K], padding included."""
        size = 0 if self.branch is None else self.branch.nbytes
        size += 0 if self.input_scales is None else self.input_scales.nbytes
        plus = self.codes.plus
        return size if plus is None else size + added_nbytes(plus.with_rows(shape[0]))

    def rows(self, part: slice) -> WeightSum:
        """Some of the rows of the codes; where there is a branch, those of the weight."""
        branch = self.branch
        taken = None if branch is None else Branch(branch.down, branch.up[part])
        return replace(self, codes=self.codes.rows(part), branch=taken)

    def dequantize(self) -> np.ndarray:
        """The float32 weight that all parts together stand for, in the rows of the codes."""
        whole = self.codes.dequantize()
        if self.input_scales is not None:
            whole *= self.input_scales
        if self.branch is not None:
            whole += self.branch.weight().reshape(whole.shape)
        return whole
