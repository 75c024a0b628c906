"""The oracle of ``Hadamard``: NumPy, straight from the specification in ``runtime/ops``."""

from __future__ import annotations

import numpy as np
from scipy.linalg import hadamard as sylvester


def hadamard(x: np.ndarray, base: np.ndarray | None = None, *, size: int) -> np.ndarray:
    """Y of ``Hadamard`` in float64, for x [..., K] and base int8 [m, m]: the whole matrix at once.

    Rows are those of ``x``; a NaN or infinity makes its block NaN or infinite, as sums do.
    """
    order = 1 if base is None else len(base)
    run = sylvester(size // order, dtype=np.int8)
    matrix = run if base is None else np.kron(base, run)
    with np.errstate(invalid="ignore"):
        blocks = x.reshape(-1, size).astype(np.float64) @ matrix.astype(np.float64)
    return blocks.reshape(x.shape) * np.float64(np.float32(1 / np.sqrt(size)))
