"""What was seen of the magnitudes of a value: counts and sums by size, whatever their range."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

PER_OCTAVE = 16
"""Bins of each factor of two: 4.4% wide."""
LOWEST, HIGHEST = -64, 64
"""Powers of two between which magnitudes are told apart."""
BINS = PER_OCTAVE * (HIGHEST - LOWEST)


def _edges() -> np.ndarray:
    return np.exp2(np.arange(BINS + 1) / PER_OCTAVE + LOWEST)


@dataclass
class Magnitudes:
    """Magnitudes in bins of equal ratios; those below the first edge are in the first bin.

    Attributes:
        counts: values in each bin, f64[BINS].
        squares: the sum of their squares, likewise.
        sums: the sum of their magnitudes, likewise.
        largest: the largest of all.
    """

    counts: np.ndarray = field(default_factory=lambda: np.zeros(BINS))
    sums: np.ndarray = field(default_factory=lambda: np.zeros(BINS))
    squares: np.ndarray = field(default_factory=lambda: np.zeros(BINS))
    largest: float = 0.0

    def add(self, values: np.ndarray) -> None:
        """Take finite values in."""
        magnitude = np.abs(values, dtype=np.float32).reshape(-1).astype(np.float64)
        if not magnitude.size:
            return
        octaves = np.log2(np.maximum(magnitude, 2.0**LOWEST)) - LOWEST
        place = np.minimum((octaves * PER_OCTAVE).astype(np.int64), BINS - 1)
        self.counts += np.bincount(place, minlength=BINS)
        self.sums += np.bincount(place, magnitude, BINS)
        self.squares += np.bincount(place, magnitude**2, BINS)
        self.largest = max(self.largest, float(magnitude.max()))

    def percentile(self, share: float) -> float:
        """The least bin edge, or the largest magnitude, that ``share`` of the values stay below."""
        below = np.cumsum(self.counts)
        place = int(np.searchsorted(below, share * below[-1]))
        return min(float(_edges()[place + 1]), self.largest)

    def best_clip(self, levels: int) -> float:
        """Where to clip so that rounding to ``levels`` on each side loses the least squares.

        A value loses its own square where it is rounded to 0, about a twelfth of a step's square up
        to the clip, and what it is above that beyond.  Clips at bin edges are tried, and none.
        """
        edges = _edges()[1:]
        count, total, square = (np.cumsum(each) for each in (self.counts, self.sums, self.squares))
        steps = edges / levels
        # Values below half a step: the bins whose upper edge is no larger.
        dead = np.searchsorted(edges, steps / 2, side="right") - 1
        lost = np.where(dead >= 0, square[dead], 0.0)
        inside = count - np.where(dead >= 0, count[dead], 0.0)
        lost += inside * steps**2 / 12
        more, beyond, squares = count[-1] - count, total[-1] - total, square[-1] - square
        lost += np.maximum(squares - 2 * edges * beyond + more * edges**2, 0)
        return min(float(edges[int(np.argmin(lost))]), self.largest)
