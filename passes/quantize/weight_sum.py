"""A quantized weight as the sum of its parts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bitfold.passes.quantize.low_rank import Branch
from bitfold.passes.quantize.rounding import QuantizedWeight


@dataclass(frozen=True)
class WeightSum:
    """A weight [N, K] as codes and scales, perhaps with a low-rank branch beside them.

    Attributes:
        codes: the codes and scales.
        branch: what is added; it reads the inputs before they are rounded.
    """

    codes: QuantizedWeight
    branch: Branch | None = None

    @property
    def rank(self) -> int:
        """The rank of the branch; 0 without one."""
        return 0 if self.branch is None else self.branch.rank

    def dequantize(self) -> np.ndarray:
        """The float32 weight that all parts together stand for, in the rows of the codes."""
        whole = self.codes.dequantize()
        if self.branch is not None:
            whole += self.branch.weight().reshape(whole.shape)
        return whole
