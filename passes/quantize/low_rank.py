"""A low-rank branch beside a quantized weight: weight math, with no graph in sight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import linalg

from bitfold.passes.quantize.gptq import damp
from bitfold.passes.quantize.rounding import QuantizedWeight

LowRankStart = Literal["error", "weight"]
"""What the branch takes first: what rounding loses, or the weight itself."""

ROUNDS = 3
"""Times that codes and branch are fitted to each other; later rounds gain a few percent each."""

F16_LARGEST, F16_SMALLEST = 65504.0, 2.0**-10
"""Factors whose largest number lies between these lose next to nothing in float16."""


@dataclass(frozen=True)
class Branch:
    """The product U D, which is added to a quantized weight.

    Attributes:
        down: D [R, K], float16, or float32 where float16 cannot hold the numbers.
        up: U [N, R], of the same type.
    """

    down: np.ndarray
    up: np.ndarray

    @property
    def rank(self) -> int:
        """R, the channels between the two."""
        return len(self.down)

    @property
    def nbytes(self) -> int:
        """Bytes of both."""
        return self.down.nbytes + self.up.nbytes

    def weight(self) -> np.ndarray:
        """The product, float32 [N, K]."""
        product: np.ndarray = self.up.astype(np.float32) @ self.down.astype(np.float32)
        return product


def quantize_beside(
    weight: np.ndarray,
    gram: np.ndarray | None,
    rank: int,
    start: LowRankStart,
    quantize: Callable[[np.ndarray], QuantizedWeight],
) -> tuple[QuantizedWeight, Branch]:
    """Split ``weight`` [N, K] into codes and a branch, fitted to each other in turn.

    With ``start="error"`` the weight is quantized first and the branch takes what that loses (LoRC
    in ZeroQuant-V2, arXiv 2303.08302).  With ``"weight"`` the branch first takes the weight's
    largest singular directions, and what remains is quantized (SVDQuant, arXiv 2411.05007).  Either
    way the remainder is then quantized anew and the branch fitted to what that loses, for
    :data:`ROUNDS` rounds in all (LoftQ, arXiv 2310.08659); the best round counts.

    Args:
        weight: finite.
        gram: mean of ``x x^T`` over the weight's inputs, f64[K, K], or None: then all inputs count
            alike.
        rank: from 1 to the smaller side of the weight.
        start: what the branch takes first.
        quantize: makes codes of a weight [N, K].
    """
    taken = fit_branch(weight, rank).weight() if start == "weight" else 0.0
    best: tuple[QuantizedWeight, Branch] | None = None
    least = np.inf
    for _ in range(ROUNDS):
        quantized = quantize(weight - taken)
        lost = weight - quantized.dequantize().reshape(weight.shape)
        branch = fit_branch(lost, rank, gram)
        taken = branch.weight()
        loss = _loss(lost - taken, gram)
        if best is None or loss < least:
            best, least = (quantized, branch), loss
    assert best is not None, "there is at least one round"
    return best


def fit_branch(lost: np.ndarray, rank: int, gram: np.ndarray | None = None) -> Branch:
    """The branch of ``rank`` that is nearest to ``lost`` [N, K] in what it gives for the inputs.

    It has the least ``tr((lost - U D) H (lost - U D)^T)``, H the damped Gram matrix (the identity
    without one).  With any square root ``H = S S^T`` that is the best approximation of ``lost S``,
    whose largest left singular vectors U make ``D = U^T lost``: no inverse is needed (the closed
    form of QERA, arXiv 2410.06040).
    """
    error = np.asarray(lost, np.float64)
    seen = error if gram is None else error @ linalg.cholesky(damp(gram), lower=True)
    n, k = seen.shape
    rank = min(rank, n, k)
    if n <= k:
        up = _largest(seen @ seen.T, rank)
    else:
        up = linalg.qr(seen @ _largest(seen.T @ seen, rank), mode="economic")[0]
    down = up.T @ error
    # Numbers of like size on both sides: float16 then rounds both alike.
    balance = np.sqrt(_safe(np.abs(down).max(1)) / _safe(np.abs(up).max(0)))
    return _stored(down / balance[:, None], up * balance)


def _largest(square: np.ndarray, rank: int) -> np.ndarray:
    """Eigenvectors [M, rank] of the largest eigenvalues of a symmetric matrix [M, M]."""
    size = len(square)
    vectors: np.ndarray = linalg.eigh(square, subset_by_index=[size - rank, size - 1])[1]
    return vectors[:, ::-1]


def _stored(down: np.ndarray, up: np.ndarray) -> Branch:
    largest = [float(np.abs(each).max(initial=0)) for each in (down, up)]
    fits = all(not each or F16_SMALLEST <= each <= F16_LARGEST for each in largest)
    dtype = np.float16 if fits else np.float32
    return Branch(np.ascontiguousarray(down, dtype), np.ascontiguousarray(up, dtype))


def _safe(sizes: np.ndarray) -> np.ndarray:
    return np.where(sizes > 0, sizes, 1.0)


def _loss(lost: np.ndarray, gram: np.ndarray | None) -> float:
    error = np.asarray(lost, np.float32)
    seen = error if gram is None else error @ gram.astype(np.float32)
    return float(np.einsum("nk,nk->", seen, error, dtype=np.float64))
