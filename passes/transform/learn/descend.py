"""Descent among rotations.

Each step multiplies by the Cayley transform of a skew matrix, an exact rotation (Li et al.,
"Efficient Riemannian optimization on the Stiefel manifold via the Cayley transform", arXiv
2002.01113, used by SpinQuant, Liu et al., arXiv 2405.16406).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

TURN = 0.1
"""Radians that a step turns by at most, at first."""

MOMENTUM = 0.9

Cost = Callable[[np.ndarray, "np.random.Generator | None"], "tuple[float, np.ndarray]"]
"""From rotations [blocks, n, n] to a cost and its gradient; on all there is without a generator."""


def descend(
    cost: Cost,
    start: np.ndarray,
    steps: int,
    rng: np.random.Generator,
    progress: Callable[[float], None] = lambda done: None,
) -> np.ndarray:
    """Rotations of a lower cost than ``start``, or ``start``.

    Args:
        start: float [blocks, n, n], orthogonal.
        steps: how many; their length falls to nothing along half a cosine.

    Returns:
        float64 [blocks, n, n], orthogonal up to its rounding.
    """
    now = start.astype(np.float32)
    momentum = np.zeros_like(now)
    identity = np.eye(now.shape[-1], dtype=now.dtype)
    for step in range(steps):
        progress(step / steps)
        _, gradient = cost(now, rng)
        slope = gradient @ now.swapaxes(-1, -2)
        momentum = MOMENTUM * momentum + (slope - slope.swapaxes(-1, -2))
        top = max(_largest(each, rng) for each in momentum)
        if top == 0:
            break
        half = TURN / 2 * (0.5 + 0.5 * np.cos(np.pi * step / steps)) / top
        skew = momentum * np.float32(half)
        now = np.linalg.solve(identity + skew, (identity - skew) @ now)
    left, _, right = np.linalg.svd(now.astype(np.float64))
    result: np.ndarray = left @ right
    better = cost(result.astype(np.float32), None)[0] < cost(start.astype(np.float32), None)[0]
    return result if better else start.astype(np.float64)


def _largest(matrix: np.ndarray, rng: np.random.Generator) -> float:
    """About the largest singular value."""
    vector = rng.standard_normal(len(matrix)).astype(matrix.dtype)
    size = 0.0
    for _ in range(8):
        vector = matrix @ (vector / max(float(np.linalg.norm(vector)), 1e-30))
        size = float(np.linalg.norm(vector))
    return size
