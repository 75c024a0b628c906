"""Which channels to split, and into what: the arithmetic of splits, with no graph in sight.

Zhao et al., "Improving Neural Network Quantization without Retraining using Outlier Channel
Splitting", arXiv 1901.09504.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bitfold.passes.quantize.rounding import round_to_nearest
from bitfold.runtime.formats.scheme import WeightScheme

ROUNDS = 8
"""Channels are chosen in so many rounds, each of which sees what the last one left."""


@dataclass(frozen=True)
class Ranges:
    """Numbers that share scales, and what an error in each costs.

    Attributes:
        rows: [R, K]; each run of ``group`` columns of a row has a scale of its own.
        group: columns that share a scale.
        energy: [K], mean square of what each column is multiplied by.
        channels: int [K], the channel that each column is.
        signal: what errors are measured against.
        symmetric: whether a scale covers the largest magnitude; else it covers both ends.
        alike: whether the copies of a split channel are rounded alike, so that errors add up;
            else the shares are such that their codes add up to the original's.
    """

    rows: np.ndarray
    group: int
    energy: np.ndarray
    channels: np.ndarray
    signal: float
    symmetric: bool
    alike: bool

    def drops(self, counts: np.ndarray) -> np.ndarray:
        """How much the squared error falls where a channel gets another copy, f64[channels].

        An error is taken to be uniform in a step, a step proportional to the range: what counts is
        how far the next channel of a group lies below the one that sets its range.

        Args:
            counts: int [channels], copies that there are of each.
        """
        have = counts[np.maximum(self.channels, 0)]
        found = np.zeros(len(counts))
        if not self.signal:
            return found
        for start in range(0, self.rows.shape[1], self.group):
            part = slice(start, start + self.group)
            shares = self.rows[:, part] / have[part]
            k, energy = have[part], self.energy[part]
            cost = self._cost(k, energy)
            ends = [np.abs(shares)] if self.symmetric else [shares, -shares]
            tops = [_top_two(end) for end in ends]
            width = sum(np.maximum(first, 0) for _, first, _ in tops)
            for place, first, second in tops:
                split = np.maximum(second, first * k[place] / (k[place] + 1))
                narrow = width - np.maximum(first, 0) + np.maximum(split, 0)
                after = cost + self._more(k, energy)[place]
                drop = width**2 * cost - narrow**2 * after
                channel = self.channels[part][place]
                np.add.at(found, channel[channel >= 0], drop[channel >= 0])
        return found / self.signal

    def _cost(self, k: np.ndarray, energy: np.ndarray) -> float:
        return float((energy * k**2 if self.alike else energy).sum())

    def _more(self, k: np.ndarray, energy: np.ndarray) -> np.ndarray:
        return energy * (2 * k + 1) if self.alike else np.zeros(len(energy))


def _top_two(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each row the place of its largest number, that number, and the second largest."""
    place = rows.argmax(1)
    first = np.take_along_axis(rows, place[:, None], 1)[:, 0]
    if rows.shape[1] == 1:
        return place, first, np.zeros(len(rows))
    second = np.partition(rows, -2, axis=1)[:, -2]
    return place, first, second


def choose(drops: Callable[[np.ndarray], np.ndarray], size: int, extra: int) -> np.ndarray:
    """Copies of each of ``size`` channels, ``extra`` more than there were.

    Args:
        drops: what another copy of each would gain, for the copies that there are.
    """
    counts = np.ones(size, int)
    left = extra
    for done in range(ROUNDS):
        now = min(left, size, -(-left // (ROUNDS - done)))
        if now <= 0:
            break
        best = np.argsort(-drops(counts), kind="stable")[:now]
        counts[best] += 1
        left -= now
    return counts


def total_drops(parts: Sequence[Ranges]) -> Callable[[np.ndarray], np.ndarray]:
    """:meth:`Ranges.drops` of all ``parts``."""
    return lambda counts: np.sum([part.drops(counts) for part in parts], axis=0)


def offsets(copies: np.ndarray, group: int) -> np.ndarray:
    """Of each column, how far its share lies from an equal one, in steps of its group.

    With the k shares of x at ``x/k + (j - (k - 1)/2)/k`` steps, rounded ones add up to x rounded
    (Hermite's identity): a split column costs no more than a whole one.  Shares that lie in several
    groups stay equal: moved by steps of different lengths, they would not add up to x.

    Args:
        copies: int, how many copies of each channel lie side by side.
        group: columns that share a scale.
    """
    k = np.repeat(copies, copies)
    first = np.repeat(np.cumsum(copies) - copies, copies)
    together = first // group == (first + k - 1) // group
    found: np.ndarray = np.where(together, (np.arange(len(k)) - first - (k - 1) / 2) / k, 0)
    return found


def parted(rows: np.ndarray, copies: np.ndarray, scheme: WeightScheme) -> np.ndarray:
    """Weights [R, K], column j in ``copies[j]`` shares that add up to it, rounded or not."""
    shares = np.repeat((rows / copies).astype(np.float32), copies, axis=1)
    return nudged(shares, copies, scheme)


def nudged(
    shares: np.ndarray,
    copies: np.ndarray,
    scheme: WeightScheme,
    chosen: np.ndarray | None = None,
) -> np.ndarray:
    """Equal shares [R, sum of ``copies``] moved apart; in formats of uneven levels they stay.

    Args:
        chosen: the channels whose shares are to be moved; by default all.
    """
    assert shares.shape[1] == copies.sum(), "a column for every share"
    group = scheme.group_size(shares.shape[1])
    offset = offsets(copies, group)
    if chosen is not None:
        offset = offset * np.repeat(chosen, copies)
    moved = np.flatnonzero(offset)
    if not scheme.number.linear or not len(moved):
        return shares
    rounded = round_to_nearest(shares, scheme)
    steps = rounded.scales.astype(np.float32) * np.float32(rounded.scale_factor)
    found = shares.copy()
    found[:, moved] += steps[:, moved // group] * offset[moved].astype(np.float32)
    return found
