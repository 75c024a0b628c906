"""AdaQuant: learn which values to round, so that outputs stay."""

from __future__ import annotations

import numpy as np

from bitfold.passes.quantize.adam import Adam
from bitfold.passes.quantize.adaround import settled, start
from bitfold.passes.quantize.columns import Columns
from bitfold.passes.quantize.ranges import inverse_of
from bitfold.passes.quantize.rounding import QuantizedWeight
from bitfold.runtime.formats.scheme import WeightScheme

RATE = 0.01
"""How far a value moves in a step, in shares of its group's scale."""

REFITS = 5
"""How often scales are fitted to the codes on the way."""


def adaquant(
    weight: np.ndarray,
    gram: np.ndarray,
    scheme: WeightScheme,
    ranges: str = "mse",
    size: int = 0,
    steps: int = 300,
) -> QuantizedWeight:
    """Quantize ``weight`` [N, K] by rounding other values, learned along with the scales.

    What is rounded starts as the weight and follows the slope of the outputs' squared error,
    ``tr((W - Q) H (W - Q)^T)``, taken at the rounded values (a straight-through estimator); no code
    is bound to those next to its weight (AdaQuant: Hubara et al., arXiv 2006.10518).  Scales are
    fitted in closed form now and then, rather than by gradients.  Each output keeps the best codes
    that it has had, so that none ends worse than rounded to nearest.

    ``gptq`` and its coordinate descent lower the same loss, are faster, and left less of it on
    every layer of MiniLM and Whisper that was tried: 3 bits in groups of 32, half of this.

    Args:
        weight: finite.
        gram: H, the mean of ``x x^T`` over the inputs, f64[K, K].
        scheme: any.
        ranges: a key of ``FINDERS``.
        size: columns a group; by default the scheme's.
        steps: of gradient descent.
    """
    size = size or scheme.group_size(weight.shape[1])
    columns = start(weight, gram, scheme, ranges, size)
    unit = np.abs(columns.scales[columns.group])
    wanted, adam = columns.weight.copy(), Adam(columns.weight.shape)
    best = Best(columns)
    for at in range(steps):
        slope = columns.gram @ (columns.rounded - columns.weight)
        best.see(columns, ((columns.rounded - columns.weight) * slope).sum(0))
        wanted -= unit * adam.step(slope * unit, RATE * (1 - at / steps))
        round_all(columns, wanted)
        if at % (steps // REFITS + 1) == steps // REFITS:
            settled(columns, size)
    lost = columns.rounded - columns.weight
    best.see(columns, (lost * (columns.gram @ lost)).sum(0))
    best.restore(columns)
    return settled(columns, size)


def round_all(columns: Columns, wanted: np.ndarray) -> None:
    """Set every column to the codes nearest to ``wanted`` [K, N]."""
    scale, zero = columns.scales[columns.group], columns.zeros[columns.group]
    number = columns.scheme.number
    columns.codes[:] = number.encode(wanted * inverse_of(scale) + zero)
    columns.rounded[:] = (number.decode(columns.codes) - zero) * scale


class Best:
    """The codes and scales of the least loss that each output has had."""

    def __init__(self, columns: Columns) -> None:
        self.loss = np.full(columns.weight.shape[1], np.inf)
        self.codes, self.scales = columns.codes.copy(), columns.scales.copy()

    def see(self, columns: Columns, loss: np.ndarray) -> None:
        """Keep what ``columns`` has where its ``loss`` [N] is the least yet."""
        better = loss < self.loss
        self.loss[better] = loss[better]
        self.codes[:, better] = columns.codes[:, better]
        self.scales[:, better] = columns.scales[:, better]

    def restore(self, columns: Columns) -> None:
        """Give ``columns`` what was kept."""
        columns.codes[:], columns.scales[:] = self.codes, self.scales
        columns.rounded[:] = columns.levels(slice(None)) * columns.scales[columns.group]
