"""Seeded weights for the tiny models, and the outlier channels put into their residual stream.

Trained transformers have a few residual channels some tens of times larger than the rest
(Dettmers et al., 2022, arXiv 2208.07339; Xiao et al., 2023, arXiv 2211.10438), and they are what
makes activations hard to quantize: one scale a token must cover both. Random weights have none.
So a tiny model is drawn balanced and then changed by a diagonal matrix D of channel scales:
writers of the stream become D·W, norm gains grow by rms(D) since the norm shrinks by that, and
readers become W·D⁻¹. The float model stays as well-behaved as it was; its activations do not.
"""

from __future__ import annotations

import numpy as np

OUTLIERS = 3
"""How many residual channels of a tiny model are outliers."""
STRENGTH = (30.0, 100.0)
"""The range that the scale of an outlier channel is drawn from; ordinary channels have 1."""


class Draw:
    """A stream of float32 arrays that the seed alone determines.

    Args:
        seed: the model's seed.
        salt: a number of the model's own, so that two models of one seed differ.
    """

    def __init__(self, seed: int, salt: int) -> None:
        self._rng = np.random.default_rng([seed, salt])

    def normal(self, *shape: int, std: float = 1.0, mean: float = 0.0) -> np.ndarray:
        """f32[shape] from a normal distribution."""
        return (self._rng.standard_normal(shape) * std + mean).astype(np.float32)

    def uniform(self, *shape: int, low: float, high: float) -> np.ndarray:
        """f32[shape] from a uniform distribution."""
        return self._rng.uniform(low, high, shape).astype(np.float32)

    def linear(self, out: int, into: int, gain: float = 1.0) -> np.ndarray:
        """W f32[out, in] that gives outputs of size `gain` for inputs of size 1."""
        return self.normal(out, into, std=gain * into**-0.5)

    def channel_scales(self, channels: int, outliers: bool) -> np.ndarray:
        """D f32[channels]: `STRENGTH` at `OUTLIERS` random places, 1 elsewhere.

        Without `outliers` all are 1, and the stream is advanced as with them.
        """
        places = self._rng.choice(channels, OUTLIERS, replace=False)
        strength = self.uniform(OUTLIERS, low=STRENGTH[0], high=STRENGTH[1])
        scales = np.ones(channels, np.float32)
        if outliers:
            scales[places] = strength
        return scales


def rms(scales: np.ndarray) -> np.float32:
    """Root mean square of the channel scales: how much a norm shrinks ordinary channels."""
    return np.float32(np.sqrt(np.mean(np.square(scales, dtype=np.float64))))
