"""The oracle of skipped columns: NumPy, straight from the specification in ``runtime/ops``."""

from __future__ import annotations

import math

import numpy as np

RUN = 16
"""Inputs that are kept or skipped together."""


def kept_runs(k: int, keep: float) -> int:
    """How many runs of a row of ``k`` inputs are kept."""
    return max(1, math.ceil(float(np.float32(keep)) * -(-k // RUN)))


def without_skipped(rows: np.ndarray, norms: np.ndarray, keep: float) -> np.ndarray:
    """float32 rows [M, K] with the runs that weigh least zeroed; a row with a NaN score whole."""
    m, k = rows.shape
    runs = -(-k // RUN)
    scores = np.zeros((m, runs * RUN), np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        scores[:, :k] = np.abs(rows) * norms
        scores = scores.reshape(m, runs, RUN).sum(axis=2)
    best = np.argsort(-scores, axis=1, kind="stable")[:, : kept_runs(k, keep)]
    chosen = np.zeros((m, runs), bool)
    np.put_along_axis(chosen, best, True, axis=1)
    chosen |= np.isnan(scores).any(axis=1, keepdims=True)
    return np.where(np.repeat(chosen, RUN, axis=1)[:, :k], rows, np.float32(0))
