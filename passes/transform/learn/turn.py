"""Rows, some of whose columns are a space's channels, turned by its rotations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bitfold.passes.analysis.spaces.space import Held


@dataclass(frozen=True)
class Places:
    """Where rows [M, K] hold the channels of a space.

    Attributes:
        blocks: the block of each view.
        columns: int [views, n]: the columns of a block's channels, in order.
        width: K.
    """

    blocks: tuple[int, ...]
    columns: np.ndarray
    width: int

    @classmethod
    def of(cls, held: Held, blocks: int, size: int) -> Places:
        """Those of a parameter's axis."""
        views = [held.views(block, size) for block in range(blocks)]
        numbers = tuple(block for block, view in enumerate(views) for _ in view)
        return cls(numbers, np.concatenate(views), held.place.size)

    def key(self) -> tuple[object, ...]:
        """Equal for equal places."""
        return self.blocks, self.columns.tobytes(), self.width

    def turn(self, rows: np.ndarray, rotations: np.ndarray) -> np.ndarray:
        """``rows`` in the rotated coordinates.

        Args:
            rows: [M, K]; other columns stay as they are.
            rotations: [blocks, n, n].
        """
        turned = rows.copy()
        for block, columns in zip(self.blocks, self.columns, strict=True):
            turned[:, columns] = rows[:, columns] @ rotations[block]
        return turned

    def gradient(self, rows: np.ndarray, by_turned: np.ndarray, blocks: int) -> np.ndarray:
        """The gradient [blocks, n, n] by the rotations.

        Args:
            rows: [M, K], in the original coordinates.
            by_turned: [M, K], the gradient by what :meth:`turn` gives.
        """
        size = self.columns.shape[1]
        total = np.zeros((blocks, size, size), rows.dtype)
        for block, columns in zip(self.blocks, self.columns, strict=True):
            total[block] += rows[:, columns].T @ by_turned[:, columns]
        return total
