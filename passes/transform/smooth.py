"""``smooth``: move the outliers of activations into the weights that read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from bitfold.passes.analysis.spaces.trace import Role
from bitfold.passes.transform.scaling import Candidate, Measured, ScalePass, balanced
from bitfold.runtime.errors import RecipeError

ALPHAS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""Strengths that the search tries."""


@dataclass(frozen=True)
class Smooth(ScalePass):
    """Divide each channel by ``s = max|x|^alpha / max|w|^(1 - alpha)``, and multiply its weights.

    SmoothQuant, Xiao et al., arXiv 2211.10438, equation 4, over the outputs of norms (whose gains
    take the factors in), between values and output projections, between up- and down-projections,
    and between any other linear ops, ReLUs in between or not.  Heads that share keys and values
    share factors.

    1. A space is scaled only where that lowers the estimated error of what reads it at the scheme
       that is asked for; the report has both.
    2. One that an operator keeps from being scaled, or that a weight holds which others read too,
       stays, with the reason.
    3. Caches of values change coordinates from run to run alike; the metadata of the model's inputs
       and outputs say so.

    Attributes:
        alpha: how much of the difficulty goes into the weights: 0 for none, 1 for all; ``search``
            for what loses least in each space.
        spaces: globs of spaces (by their first writer's name) to scale.
        weights: number format that the weights will have.
        group: input channels that will share a scale; 0 for one scale per output channel.
        symmetric: whether zero points will be left out.
        acts: what inputs will be rounded to.
        act_granularity: an activation scale per row and weight group, or per row (token).
        caches: scale what caches hold; without it, their spaces stay.
        copy_limit: elements; a weight that others read in other coordinates is copied up to here.
    """

    name: ClassVar[str] = "smooth"

    alpha: float | Literal["search"] = "search"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alpha != "search" and not 0 <= self.alpha <= 1:
            raise RecipeError(f"expected an alpha from 0 to 1, found {self.alpha}")

    def candidates(self, measured: Measured) -> list[Candidate]:
        inputs, weights = measured.inputs("reach"), measured.weights(Role.READ)
        alphas = ALPHAS if self.alpha == "search" else (self.alpha,)
        return [
            Candidate(f"alpha {alpha:g}", 1 / smoothing(inputs, weights, alpha)) for alpha in alphas
        ]


def smoothing(inputs: np.ndarray, weights: np.ndarray, alpha: float) -> np.ndarray:
    """What each channel is divided by, about 1 in the geometric mean of each block.

    Args:
        inputs: largest magnitude of each channel, [blocks, size].
        weights: the same of the weights that read it.
        alpha: strength, from 0 to 1.
    """
    alive = (inputs > 0) & (weights > 0)
    a, w = np.where(alive, inputs, 1.0), np.where(alive, weights, 1.0)
    return balanced(a**alpha / w ** (1 - alpha), alive)
