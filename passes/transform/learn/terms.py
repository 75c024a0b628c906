"""What rounding is expected to cost, and its gradient by the rotations.

Rounding to steps of size s makes an error of about s**2 / 12 on each element, as good as
independent of the others; s follows from the largest magnitude of a group.  A layer's output takes
the error times the second moment of what the element is multiplied by.  Largest magnitudes are
taken as norms of a high order, which have gradients everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from bitfold.passes.transform.learn.turn import Places

ORDER = 10
"""Of the norm that stands for the largest magnitude: its gradient reaches the few largest."""


class Term(Protocol):
    """A part of the cost."""

    def cost(
        self, rotations: np.ndarray, rng: np.random.Generator | None, rows: int
    ) -> tuple[float, np.ndarray]:
        """The cost and its gradient [blocks, n, n], on some rows drawn by ``rng``, or the first."""
        ...


@dataclass(frozen=True)
class AlongRows:
    """Rows whose groups lie along the rotated axis: inputs, and weights that read the space.

    Attributes:
        rows: float32 [M, K].
        others: float32 [R, K]: what the rows are multiplied by, inputs by weights and weights by
            inputs; errors count as much as products with these get them to.
        places: where both hold the space.
        group: columns that share a step.
        steps: steps from zero to a group's largest magnitude.
        scale: what one row's cost is multiplied by.
        even: whether steps follow the largest magnitude, or else the span from least to largest.
    """

    rows: np.ndarray
    others: np.ndarray
    places: Places
    group: int
    steps: float
    scale: float
    even: bool = True

    def cost(
        self, rotations: np.ndarray, rng: np.random.Generator | None, rows: int
    ) -> tuple[float, np.ndarray]:
        """See :class:`Term`."""
        x = self.rows[_some(len(self.rows), rows, rng)]
        width, group = x.shape[1], min(self.group, x.shape[1])
        largest, slope = spread(_grouped(self.places.turn(x, rotations), group), self.even)
        factor = self.scale / (12 * self.steps**2 * len(x))
        single = group == width  # whose importance no rotation changes
        w = self.others if single else self.others[_some(len(self.others), rows, rng)]
        turned = w if single else self.places.turn(w, rotations)
        per_row = len(self.others) / len(w)
        weights = per_row * _grouped(np.square(turned).sum(0)[None], group).sum(-1)
        by_group = np.square(largest)  # [M, groups]
        total = float((by_group * weights).sum(dtype=np.float64)) * factor
        by_x = (2 * factor * weights * largest)[..., None] * slope
        by_x = by_x.reshape(len(x), -1)[:, :width]
        gradient = self.places.gradient(x, by_x, len(rotations))
        if not single:
            by_weight = np.repeat(by_group.sum(0), group)[:width] * (factor * per_row)
            gradient += self.places.gradient(w, 2 * turned * by_weight, len(rotations))
        return total, gradient


@dataclass(frozen=True)
class AcrossRows:
    """Rows of a weight that writes the space: groups lie across them, channel by channel.

    Attributes:
        rows: float32 [K, N], of each of the weight's inputs what it writes.
        importance: float32 [K], second moments of its inputs.
        places: where its outputs hold the space.
        group: rows that share a step.
        steps, even: as in :class:`AlongRows`.
        scale: what the whole weight's cost is multiplied by.
    """

    rows: np.ndarray
    importance: np.ndarray
    places: Places
    group: int
    steps: float
    scale: float
    even: bool = True

    def cost(
        self, rotations: np.ndarray, rng: np.random.Generator | None, rows: int
    ) -> tuple[float, np.ndarray]:
        """See :class:`Term`."""
        count = -(-len(self.rows) // self.group)
        some = _some(count, max(1, rows // self.group), rng)
        picked = [
            np.arange(g * self.group, min((g + 1) * self.group, len(self.rows))) for g in some
        ]
        factor = self.scale * count / (12 * self.steps**2 * len(some))
        total, by_turned = 0.0, []
        x = self.rows[np.concatenate(picked)]
        turned = self.places.turn(x, rotations)
        inside = np.zeros(x.shape[1], bool)
        inside[self.places.columns] = True
        start = 0
        for at in picked:
            largest, slope = spread(turned[start : start + len(at)].T, self.even)
            weight = factor * float(self.importance[at].sum())
            total += weight * float(np.square(largest[inside]).sum(dtype=np.float64))
            by_turned.append((2 * weight * largest[:, None] * slope).T)
            start += len(at)
        by_x = np.concatenate(by_turned).astype(x.dtype)
        return total, self.places.gradient(x, by_x, len(rotations))


def spread(values: np.ndarray, even: bool) -> tuple[np.ndarray, np.ndarray]:
    """About the largest magnitude of the last axis, or half the span of values, and its gradient.

    Returns:
        ``[...]``, and ``[..., K]``.
    """
    if even:
        return _norm(values)
    up, by_up = _norm(np.maximum(values, 0))
    down, by_down = _norm(np.maximum(-values, 0))
    return (up + down) / 2, (by_up - by_down) / 2


def _norm(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    size = np.abs(values)
    top = size.max(-1, keepdims=True)
    share = size / np.where(top > 0, top, 1)
    power = share ** (ORDER - 1)
    total = (power * share).sum(-1, keepdims=True)
    total = np.where(total > 0, total, 1)
    slope = np.sign(values) * power * total ** (1 / ORDER - 1)
    return (top * total ** (1 / ORDER))[..., 0], slope


def _grouped(rows: np.ndarray, group: int) -> np.ndarray:
    """[M, K] as [M, groups, group], with zeros at the end."""
    missing = -rows.shape[1] % group
    if missing:
        rows = np.pad(rows, ((0, 0), (0, missing)))
    return rows.reshape(len(rows), -1, group)


def _some(count: int, wanted: int, rng: np.random.Generator | None) -> np.ndarray:
    if rng is None or count <= wanted:
        return np.arange(min(count, wanted))
    return np.sort(rng.choice(count, wanted, replace=False))
