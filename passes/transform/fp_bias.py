"""``fp-bias``: scale channels by powers of two, which floating-point weights take for free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from bitfold.passes.transform.scaling import Candidate, Measured, ScalePass
from bitfold.runtime.errors import RecipeError


@dataclass(frozen=True)
class FpBias(ScalePass):
    """Give each activation channel an exponent bias of its own: divide it by a power of two.

    A channel's bias says how far its largest magnitude lies above the quietest channel's, in whole
    powers of two; the weights that read it are multiplied by the same power, which for floats is a
    shift of their exponents, with no rounding.  The pre-shifted exponent bias of LLM-FP4, Liu et
    al., arXiv 2310.16836, section 4.2.

    1. A space is scaled only where that lowers the estimated error of what reads it at the scheme
       that is asked for; the report has both.
    2. One that an operator keeps from being scaled, or that a weight holds which others read too,
       stays, with the reason.
    3. Biases reach over ``2^exponent_bits`` values; of the ways to place that window, from the
       quietest channels up to the loudest, the best is taken.

    Attributes:
        exponent_bits: bits of a bias.
        spaces: globs of spaces (by their first writer's name) to scale.
        weights: number format that the weights will have.
        group: input channels that will share a scale; 0 for one scale per output channel.
        symmetric: whether zero points will be left out.
        acts: what inputs will be rounded to.
        act_granularity: an activation scale per row and weight group, or per row (token).
        caches: scale what caches hold; without it, their spaces stay.
        copy_limit: elements; a weight that others read in other coordinates is copied up to here.
    """

    name: ClassVar[str] = "fp-bias"

    exponent_bits: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.exponent_bits <= 5:
            raise RecipeError(f"expected 1 to 5 exponent bits, found {self.exponent_bits}")

    def candidates(self, measured: Measured) -> list[Candidate]:
        inputs = measured.inputs("reach")
        window = (1 << self.exponent_bits) - 1
        known = np.rint(np.log2(inputs[inputs > 0])) if np.any(inputs > 0) else np.zeros(1)
        lowest = range(int(known.min()), int(max(known.min(), known.max() - window)) + 1)
        return [
            Candidate(f"2^{low} to 2^{low + window}", np.exp2(-biases(inputs, low, window)))
            for low in lowest
        ]


def biases(inputs: np.ndarray, lowest: int, window: int) -> np.ndarray:
    """The exponent bias of each channel: whole numbers from 0 to ``window``.

    Args:
        inputs: largest magnitude of each channel, [blocks, size].
        lowest: the exponent that has bias 0; what lies below has it, too.
        window: the largest bias.
    """
    exponents = np.log2(inputs, out=np.full(inputs.shape, -np.inf), where=inputs > 0)
    found: np.ndarray = np.clip(np.rint(exponents) - lowest, 0, window)
    return found
