"""Orthogonal matrices that are cheap to multiply by, as pure functions of rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from bitfold.runtime.hadamard import hadamard_transform, largest_block


class Rotation(Protocol):
    """An orthogonal matrix R [n, n]."""

    def apply(self, rows: np.ndarray) -> np.ndarray:
        """``rows R``, for rows [..., n]; the result has their type."""
        ...


@dataclass(frozen=True)
class RandomizedHadamard:
    """``R = diag(signs) H / sqrt(size)``, with H in blocks of ``size`` on the diagonal.

    Random signs keep structure in the channels from meeting structure in H, so that every entry
    of a rotated row is about normally distributed (Tseng et al., QuIP#, arXiv 2402.04396).

    Attributes:
        size: order of the blocks; it divides n.
        signs: float32 [n] of 1 and -1.
    """

    size: int
    signs: np.ndarray

    @classmethod
    def draw(cls, n: int, rng: np.random.Generator) -> RandomizedHadamard:
        """One for n channels, in the largest blocks there are."""
        return cls(largest_block(n), rng.choice(np.array([-1, 1], np.float32), n))

    def apply(self, rows: np.ndarray) -> np.ndarray:
        """``rows R``."""
        return hadamard_transform(rows * self.signs.astype(rows.dtype), self.size)

    def inverse(self, rows: np.ndarray) -> np.ndarray:
        """``rows R^T``."""
        turned = hadamard_transform(rows, self.size, inverse=True)
        return turned * self.signs.astype(rows.dtype)


@dataclass(frozen=True)
class Matrix:
    """A rotation that was learned.

    Attributes:
        matrix: float [n, n], orthogonal.
    """

    matrix: np.ndarray

    def apply(self, rows: np.ndarray) -> np.ndarray:
        """``rows R``."""
        product: np.ndarray = rows @ self.matrix.astype(rows.dtype)
        return product
