"""AdaRound: learn for each weight whether it is rounded up or down."""

from __future__ import annotations

import numpy as np
from scipy.special import expit, logit

from bitfold.passes.quantize.adam import Adam
from bitfold.passes.quantize.columns import Columns
from bitfold.passes.quantize.finders import finder
from bitfold.passes.quantize.gptq import damp
from bitfold.passes.quantize.ranges import inverse_of
from bitfold.passes.quantize.rounding import QuantizedWeight, grouped_rows
from bitfold.runtime.formats.scale_types import store_scales
from bitfold.runtime.formats.scheme import WeightScheme

STRETCH = 1.2
"""How far beyond 0 to 1 the soft rounding reaches in all, before it is clipped."""

WARM = 0.2
"""Share of the steps before the regularizer sets in."""

SHARPEST, SOFTEST = 2.0, 20.0
"""Exponents of the regularizer, at the end and at the start."""

PRESSURE = 1.0
"""Weight of the regularizer, where the loss of one step of one weight is 1 in the mean."""

RATE = 0.15
"""How far the soft rounding moves in a step, before the sigmoid."""


def adaround(
    weight: np.ndarray,
    gram: np.ndarray,
    scheme: WeightScheme,
    ranges: str = "mse",
    size: int = 0,
    steps: int = 500,
) -> QuantizedWeight:
    """Quantize ``weight`` [N, K] to the level above or below each value, whichever learning finds.

    The share h of the step above the lower level is a stretched sigmoid; gradient descent (Adam)
    finds it on the squared error of outputs, ``tr((W - Q) H (W - Q)^T)``, and a regularizer that
    sharpens over time drives it to 0 or 1 (AdaRound: Nagel et al., arXiv 2004.10568).  Levels may
    be those of any format, floating-point ones too, whose steps differ (FP4DiT, arXiv 2503.15465).
    Groups' scales are fitted to the codes in the end.  The paper draws inputs; H says all that a
    linear layer's loss needs of them.

    ``gptq`` descends on the same loss without the bound of one step, is faster, and left less of it
    on every layer of MiniLM and Whisper that was tried: 3 bits in groups of 32, 0.60 of this.

    Args:
        weight: finite.
        gram: H, the mean of ``x x^T`` over the inputs, f64[K, K].
        scheme: any.
        ranges: a key of ``FINDERS``.
        size: columns a group; by default the scheme's.
        steps: of gradient descent.
    """
    columns = start(weight, gram, scheme, ranges, size or scheme.group_size(weight.shape[1]))
    levels = np.array(scheme.number.levels, np.float32)
    scale, zero = columns.scales[columns.group], columns.zeros[columns.group]
    wanted = columns.weight * inverse_of(scale) + zero
    lower = np.clip(np.searchsorted(levels, wanted, "right") - 1, 0, len(levels) - 2)
    below = (levels[lower] - zero) * scale
    step = (levels[lower + 1] - levels[lower]) * scale
    up = learned_shares(columns, below, step, steps) >= 0.5
    columns.codes[:] = scheme.number.encode(levels[lower + up])
    columns.rounded[:] = below + step * up
    return settled(columns, size or scheme.group_size(weight.shape[1]))


def learned_shares(columns: Columns, below: np.ndarray, step: np.ndarray, steps: int) -> np.ndarray:
    """How far up from ``below`` each weight goes, in steps: [K, N], near 0 or 1."""
    gram = columns.gram
    inverse = inverse_of(step)
    share = np.clip((columns.weight - below) * inverse, 0, 1)
    edge = np.float32((STRETCH - 1) / 2)
    soft = logit((share + edge) / np.float32(STRETCH))
    unit = float(np.mean(step * step * np.diag(gram)[:, None])) or 1.0
    adam = Adam(soft.shape)
    for at in range(steps):
        sigmoid = expit(soft)
        share = np.clip(STRETCH * sigmoid - edge, 0, 1)
        slope = step * (gram @ (below + step * share - columns.weight)) * np.float32(2 / unit)
        done = at / steps
        if done >= WARM:
            cooling = (done - WARM) / (1 - WARM)
            power = SHARPEST + (SOFTEST - SHARPEST) * (1 + np.cos(cooling * np.pi)) / 2
            side = 2 * share - 1
            slope -= (
                np.float32(2 * PRESSURE * power) * np.sign(side) * np.abs(side) ** (power - 1)
            ).astype(np.float32)
        inside = (share > 0) & (share < 1)
        soft -= adam.step(slope * inside * STRETCH * sigmoid * (1 - sigmoid), RATE)
    return share


def start(
    weight: np.ndarray, gram: np.ndarray, scheme: WeightScheme, ranges: str, size: int
) -> Columns:
    """The weight's columns, in their own order, rounded to nearest."""
    weight = np.asarray(weight, np.float32)
    found = finder(scheme, ranges)(grouped_rows(weight, size), scheme.number, scheme.symmetric)
    order = np.arange(weight.shape[1])
    columns = Columns(
        scheme,
        np.ascontiguousarray(weight.T),
        damp(gram).astype(np.float32),
        order,
        order // size,
        store_scales(found.scale, scheme.scale),
    )
    columns.scales[:], columns.zeros[:] = columns.stored.values().T, found.zero.T
    for j in range(len(order)):
        columns.round_column(j, columns.weight[j])
    return columns


def settled(columns: Columns, size: int) -> QuantizedWeight:
    """The weight of these codes, its scales fitted to them."""
    pull = columns.gram @ (columns.weight - columns.rounded)
    for group, run in columns.runs():
        columns.fit_scale(group, run, pull)
    return columns.result(size)
