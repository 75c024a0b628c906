"""Adam: gradient steps of about the same size for every number (arXiv 1412.6980)."""

from __future__ import annotations

import numpy as np

DECAY, SQUARE_DECAY, EPSILON = 0.9, 0.999, 1e-8


class Adam:
    """Running means of an array's slopes."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.mean = np.zeros(shape, np.float32)
        self.square = np.zeros(shape, np.float32)
        self.taken = 0

    def step(self, slope: np.ndarray, rate: float) -> np.ndarray:
        """What to take off the array: float32 of its shape, about ``rate`` in size."""
        self.taken += 1
        self.mean += np.float32(1 - DECAY) * (slope - self.mean)
        self.square += np.float32(1 - SQUARE_DECAY) * (slope * slope - self.square)
        first, second = 1 - DECAY**self.taken, 1 - SQUARE_DECAY**self.taken
        size = np.sqrt(self.square * np.float32(1 / second)) + np.float32(EPSILON)
        found: np.ndarray = np.float32(rate / first) * self.mean / size
        return found
