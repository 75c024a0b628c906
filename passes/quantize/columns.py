"""A weight whose columns become codes one by one, so that its outputs stay."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from bitfold.passes.quantize.ranges import Range, inverse_of
from bitfold.passes.quantize.rounding import QuantizedWeight
from bitfold.runtime.formats.scale_types import StoredScales
from bitfold.runtime.formats.scheme import WeightScheme


@dataclass
class Columns:
    """Columns in the order in which they are rounded, those of a group side by side.

    Arrays are turned: each column lies whole in memory, since one is worked on at a time.

    Attributes:
        scheme: how they are rounded.
        weight: float32 [K, N], in the new order.
        gram: float32 [K, K], likewise.
        order: the place of each column in the weight itself.
        group: the group of each column.
        stored: says how scales are stored.
        codes: uint8 [K, N], set column by column.
        scales: float32 [G, N], already rounded to their type.
        zeros: float32 [G, N].
        rounded: float32 [K, N], what the codes stand for.
    """

    scheme: WeightScheme
    weight: np.ndarray
    gram: np.ndarray
    order: np.ndarray
    group: np.ndarray
    stored: StoredScales
    codes: np.ndarray = field(init=False)
    scales: np.ndarray = field(init=False)
    zeros: np.ndarray = field(init=False)
    rounded: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.codes = np.zeros(self.weight.shape, np.uint8)
        self.rounded = np.zeros_like(self.weight)
        self.scales = np.zeros((int(self.group.max()) + 1, self.weight.shape[1]), np.float32)
        self.zeros = np.zeros_like(self.scales)

    def runs(self) -> list[tuple[int, slice]]:
        """Each group with its columns, in order."""
        starts = np.flatnonzero(np.diff(self.group, prepend=-1))
        stops = [*starts[1:], len(self.group)]
        return [
            (int(self.group[a]), slice(int(a), int(b))) for a, b in zip(starts, stops, strict=True)
        ]

    def set_range(self, group: int, found: Range) -> None:
        """Give a group its range, of shape [N, 1]."""
        self.set_scale(group, found.scale[:, 0])
        self.zeros[group] = found.zero[:, 0]

    def set_scale(self, group: int, scale: np.ndarray) -> None:
        """Give a group the scales nearest to ``scale`` [N] that its type has."""
        self.scales[group] = self.stored.like(scale).values()

    def levels(self, columns: slice) -> np.ndarray:
        """What a group's codes stand for before they are scaled, float32 [..., N]."""
        found = self.scheme.number.decode(self.codes[columns]).astype(np.float32)
        return found - self.zeros[self.group[columns]]

    def round_column(self, j: int, wanted: np.ndarray) -> None:
        """Set column ``j`` to the codes nearest to ``wanted`` [N] in its group's range."""
        g, number = self.group[j], self.scheme.number
        scale, zero = self.scales[g], self.zeros[g]
        codes = number.encode(wanted * inverse_of(scale) + zero)
        self.codes[j] = codes
        self.rounded[j] = (number.decode(codes) - zero) * scale

    def fit_scale(self, group: int, run: slice, pull: np.ndarray) -> None:
        """Move a group's scales to what fits its codes, and ``pull`` [K, N] along with them.

        ``pull`` is the Gram matrix times what is lost: half the loss's slope, downwards.
        """
        levels = self.levels(run)
        along = (levels * pull[run]).sum(0)
        curvature = ((self.gram[run, run] @ levels) * levels).sum(0)
        step = np.divide(along, curvature, out=np.zeros_like(along), where=curvature > 0)
        self.set_scale(group, self.scales[group] + step)
        self.become(run, levels * self.scales[group], pull)

    def become(self, run: slice, rounded: np.ndarray, pull: np.ndarray) -> None:
        """Make the columns of a group stand for ``rounded``, and move ``pull`` along."""
        pull -= self.gram[:, run] @ (rounded - self.rounded[run])
        self.rounded[run] = rounded

    def result(self, size: int) -> QuantizedWeight:
        """All of it with the columns in their own places, groups of ``size``."""
        codes = self.in_place(self.codes)
        zeros = None if self.scheme.symmetric else np.ascontiguousarray(self.zeros.T, np.int8)
        scales = self.stored.like(np.ascontiguousarray(self.scales.T))
        return QuantizedWeight(self.scheme, codes, scales.array, zeros, size, scales.factor)

    def in_place(self, codes: np.ndarray) -> np.ndarray:
        """``codes`` [K, N] turned, with the columns in their own places: [N, K]."""
        turned = np.empty(codes.shape[::-1], codes.dtype)
        turned[:, self.order] = codes.T
        return turned
