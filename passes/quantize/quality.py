"""What rounding a weight loses, in decibels: of its values, and of the outputs that it gives."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bitfold.passes.quantize.weight_sum import WeightSum

ELEMENTS_AT_ONCE = 1 << 20
"""Numbers of a weight that are compared at a time: a whole embedding would take much memory."""


def signal_to_noise(weight: np.ndarray, quantized: WeightSum) -> float:
    """SQNR in decibels of a quantized weight (infinite when nothing was lost)."""
    signal, noise = 0.0, 0.0
    for rows, lost in _parts(weight, quantized, 1):
        signal += float(np.square(rows, dtype=np.float32).sum())
        noise += float(np.square(lost, dtype=np.float32).sum())
    return _decibels(signal, noise)


def output_signal_to_noise(weight: np.ndarray, quantized: WeightSum, gram: np.ndarray) -> float:
    """SQNR of what a weight [N, K] gives for inputs whose mean of ``x x^T`` is ``gram`` [K, K]."""
    h, signal, noise = gram.astype(np.float32), 0.0, 0.0
    for rows, lost in _parts(weight, quantized, len(gram) // weight.shape[1]):
        signal += _energy(rows.reshape(-1, len(gram)), h)
        noise += _energy(lost.reshape(-1, len(gram)), h)
    return _decibels(signal, noise)


def _parts(
    weight: np.ndarray, quantized: WeightSum, together: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Some rows at a time, a multiple of ``together``, and what they lose."""
    step = together * max(1, ELEMENTS_AT_ONCE // (together * weight.shape[1]))
    for start in range(0, len(weight), step):
        part = slice(start, start + step)
        rows = np.asarray(weight[part], np.float32)
        yield rows, quantized.rows(part).dequantize() - rows


def _energy(weight: np.ndarray, gram: np.ndarray) -> float:
    return float(np.einsum("nk,nk->", weight @ gram, weight, dtype=np.float64))


def _decibels(signal: float, noise: float) -> float:
    return 10 * float(np.log10(signal / noise)) if noise > 0 and signal > 0 else float("inf")
