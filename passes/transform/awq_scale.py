"""``awq-scale``: give the weights that large activations meet finer steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from bitfold.passes.transform.scaling import Candidate, Measured, ScalePass, balanced

EXPONENTS = tuple(step / 10 for step in range(1, 11))
"""What the grid tries; 0 would change nothing."""


@dataclass(frozen=True)
class AwqScale(ScalePass):
    """Multiply the weights of each channel by ``s = mean|x|^a``, and divide the channel by it.

    A weight's rounding error counts as much as the inputs that it meets; one that is multiplied by
    s before it is rounded errs by 1/s.  The exponent a is searched for each space, 0.1 to 1, by
    the error of the quantized outputs of all that reads it.  AWQ, Lin et al., arXiv 2306.00978,
    section 3.2.

    1. A space is scaled only where that lowers the estimated error of what reads it at the scheme
       that is asked for; the report has both.
    2. One that an operator keeps from being scaled, or that a weight holds which others read too,
       stays, with the reason.
    3. Caches of values change coordinates from run to run alike; the metadata of the model's inputs
       and outputs say so.

    Attributes:
        spaces: globs of spaces (by their first writer's name) to scale.
        weights: number format that the weights will have.
        group: input channels that will share a scale; 0 for one scale per output channel.
        symmetric: whether zero points will be left out.
        acts: what inputs will be rounded to.
        act_granularity: an activation scale per row and weight group, or per row (token).
        caches: scale what caches hold; without it, their spaces stay.
        copy_limit: elements; a weight that others read in other coordinates is copied up to here.
    """

    name: ClassVar[str] = "awq-scale"

    def candidates(self, measured: Measured) -> list[Candidate]:
        inputs = measured.inputs("magnitude")
        return [Candidate(f"mean|x|^{a:g}", 1 / salience(inputs, a)) for a in EXPONENTS]


def salience(inputs: np.ndarray, exponent: float) -> np.ndarray:
    """What the weights of each channel are multiplied by, about 1 in the geometric mean.

    Args:
        inputs: mean magnitude of each channel, [blocks, size].
        exponent: 0 for the same for all, 1 for the magnitude itself.
    """
    alive = inputs > 0
    return balanced(np.where(alive, inputs, 1.0) ** exponent, alive)
