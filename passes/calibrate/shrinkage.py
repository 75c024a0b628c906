"""Few samples tell a Gram matrix badly: draw it to the identity as far as they disagree."""

from __future__ import annotations

import numpy as np


class MeanOfGrams:
    """The mean of one Gram matrix f64[K, K] a sample, and how well it is known."""

    def __init__(self) -> None:
        self.count = 0
        self.total: np.ndarray | float = 0.0
        self.squares = 0.0

    def add(self, gram: np.ndarray) -> None:
        """Take in another sample's; zeros tell nothing: nothing was read there."""
        self.total = self.total + gram
        if not gram.any():
            return
        self.count += 1
        self.squares += float(np.square(gram).sum())

    @property
    def mean(self) -> np.ndarray:
        """The plain mean; zeros where no sample tells anything."""
        return np.asarray(self.total / max(self.count, 1))

    @property
    def shrunk(self) -> np.ndarray:
        """The mean S, drawn to the multiple of the identity with its trace.

        ``(1 - r) S + r m I`` is closest to the true matrix at ``r = E |S - true|^2 / |S - m I|^2``
        (Ledoit & Wolf, "A well-conditioned estimator for large-dimensional covariance matrices",
        2004).  There rows are independent; pixels and tokens of one sample are not, so that the
        error of S is told by how far the samples' own matrices are from it.  Of one sample nothing
        is known.
        """
        mean = self.mean
        if self.count < 2:
            return mean
        size = len(mean)
        target = np.eye(size) * (np.trace(mean) / size)
        apart = float(np.square(mean - target).sum())
        spread = self.squares / self.count - float(np.square(mean).sum())
        error = max(0.0, spread) / (self.count - 1)
        share = min(1.0, error / apart) if apart > 0 else 0.0
        return (1 - share) * mean + share * target
