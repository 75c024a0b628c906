"""What rounding a weight loses, in decibels: of its values, and of the outputs that it gives."""

from __future__ import annotations

import numpy as np

from bitfold.passes.quantize.weight_sum import WeightSum


def signal_to_noise(weight: np.ndarray, quantized: WeightSum) -> float:
    """SQNR in decibels of a quantized weight (infinite when nothing was lost)."""
    noise = float(np.square(quantized.dequantize() - weight, dtype=np.float32).sum())
    signal = float(np.square(weight, dtype=np.float32).sum())
    return _decibels(signal, noise)


def output_signal_to_noise(weight: np.ndarray, quantized: WeightSum, gram: np.ndarray) -> float:
    """SQNR of what a weight [N, K] gives for inputs whose mean of ``x x^T`` is ``gram`` [K, K]."""
    shape, h = (-1, len(gram)), gram.astype(np.float32)
    whole = np.asarray(weight, np.float32).reshape(shape)
    lost = quantized.dequantize().reshape(shape) - whole
    return _decibels(_energy(whole, h), _energy(lost, h))


def _energy(weight: np.ndarray, gram: np.ndarray) -> float:
    return float(np.einsum("nk,nk->", weight @ gram, weight, dtype=np.float64))


def _decibels(signal: float, noise: float) -> float:
    return 10 * float(np.log10(signal / noise)) if noise > 0 and signal > 0 else float("inf")
