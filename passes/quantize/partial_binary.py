"""A weight of signs, but for the few values that matter most, which have 8 bits."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from bitfold.passes.quantize.columns import Columns
from bitfold.passes.quantize.gptq import arranged, inverse_factor, round_columns
from bitfold.passes.quantize.ranges import inverse_of
from bitfold.passes.quantize.rounding import QuantizedWeight
from bitfold.runtime.formats.scale_types import store_scales
from bitfold.runtime.formats.scheme import WeightScheme

TOP = 127
"""The largest level of 8 bits."""


def partial_binary(
    weight: np.ndarray,
    gram: np.ndarray,
    scheme: WeightScheme,
    ranges: str = "mse",
    size: int = 0,
    salient: float = 0.05,
) -> QuantizedWeight:
    """Quantize ``weight`` [N, K]: signs with scales per group, the salient values to 8 bits.

    This is PB-LLM (arXiv 2310.00034) without its training.  Salient are the values whose loss would
    cost most, ``w^2 / [H^-1]_jj^2``.  They too have a
    sign and scale; their 8 bits, with a scale a row, hold what these lack, so that both parts are
    plain sums and all else of the second is zero.  Columns are rounded by GPTQ, and coordinate
    descent follows.

    Args:
        weight: finite.
        gram: mean of ``x x^T`` over the weight's inputs, f64[K, K]; the identity where they are not
            known: the largest values are salient then.
        scheme: binary; says how scales are stored.
        ranges: not used; scales are the best ones for the signs.
        size: columns a group of the signs; by default the scheme's.
        salient: the share of values that are salient.

    Returns:
        The signs, with the 8-bit part as their ``plus``.
    """
    size = size or scheme.group_size(weight.shape[1])
    order, turned, damped = arranged(weight, gram, size)
    factor = inverse_factor(damped).astype(np.float32)
    kept = most_salient(turned, np.square(factor).sum(0), salient)
    stored = store_scales(np.abs(turned).mean(0, keepdims=True), scheme.scale)
    steps = stored.like(np.abs(turned).max(0) / TOP).values()
    grams = damped.astype(np.float32)
    columns = SalientColumns(scheme, turned, grams, order, order // size, stored, kept, steps)
    round_columns(columns, factor, columns.choose)
    signs = columns.result(size)
    wide = WeightScheme("int8", 0, True, scheme.scale)
    codes = columns.in_place(columns.extra + 128).astype(np.uint8)
    scales = stored.like(steps[:, None]).array
    return replace(signs, plus=QuantizedWeight(wide, codes, scales, None, codes.shape[1]))


def most_salient(weight: np.ndarray, variance: np.ndarray, share: float) -> np.ndarray:
    """Which values of ``weight`` [K, N] are kept, bool: a ``share`` of all.

    Args:
        variance: the diagonal of the inverse Gram matrix [K].
    """
    scores = np.square(weight / variance[:, None]).reshape(-1)
    count = round(share * scores.size)
    kept = np.zeros(scores.size, bool)
    kept[np.argsort(-scores, kind="stable")[:count]] = True
    return kept.reshape(weight.shape)


@dataclass
class SalientColumns(Columns):
    """Columns of signs, of which some values have more.

    Attributes:
        salient: bool [K, N], which ones.
        steps: float32 [N], the scale of a row's salient values.
        extra: int16 [K, N], their levels; 0 for others.
    """

    salient: np.ndarray
    steps: np.ndarray
    extra: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.extra = np.zeros(self.codes.shape, np.int16)

    def choose(self, group: int, wanted: np.ndarray) -> None:
        """Give a group the scale that fits the signs of what is not salient: its mean magnitude."""
        plain = ~self.salient[self.group == group]
        total = np.where(plain, np.abs(wanted), 0).sum(0)
        self.set_scale(group, total / np.maximum(plain.sum(0), 1))

    def round_column(self, j: int, wanted: np.ndarray) -> None:
        """Set column ``j`` to the signs, and 8 bits, nearest to ``wanted`` [N]."""
        super().round_column(j, wanted)
        left = (wanted - self.rounded[j]) * inverse_of(self.steps)
        self.extra[j] = np.where(self.salient[j], np.clip(np.rint(left), -TOP, TOP), 0)
        self.rounded[j] += self.extra[j] * self.steps

    def fit_scale(self, group: int, run: slice, pull: np.ndarray) -> None:
        """Move the signs' scale; what 8 bits hold stays."""
        super().fit_scale(group, run, pull)
        self.become(run, self.rounded[run] + self.extra[run] * self.steps, pull)
