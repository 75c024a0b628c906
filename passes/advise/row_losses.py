"""How far each row of a model's outputs has moved: what tells a gain from chance."""

from __future__ import annotations

import numpy as np

from bitfold.passes.core.compare import Outputs, is_float, kl_divergence, logits_name

AT_ONCE = 64
"""Rows of logits handled at once: float64 copies stay small."""


def row_losses(reference: Outputs, found: Outputs) -> np.ndarray:
    """The loss of each row: the KL of logits, or else what the cosine of any output lacks to 1.

    Args:
        reference: float outputs [..., n] by name; those of no axes or other types are left out.
        found: those of the quantized model.

    Returns:
        float64 [rows], in the order of the outputs; rows that have no finite loss are 0.
    """
    logits = logits_name(reference)
    names = [logits] if logits is not None else list(reference)
    parts = [np.empty(0)]
    for name in names:
        a, b = reference[name], found[name]
        if a.ndim == 0 or a.size == 0 or a.shape != b.shape or not is_float(a):
            continue
        a, b = (each.reshape(-1, each.shape[-1]) for each in (a, b))
        of_rows = kl_divergence if name == logits else _lacks_to_1
        for start in range(0, len(a), AT_ONCE):
            rows = slice(start, start + AT_ONCE)
            parts.append(of_rows(a[rows], b[rows]))
    return np.nan_to_num(np.concatenate(parts), nan=0.0, posinf=0.0, neginf=0.0)


def clearly_less(found: np.ndarray, before: np.ndarray, least: float) -> bool:
    """Whether losses have fallen by more than a share, and by more than chance makes of few rows.

    Args:
        found, before: losses of the same rows.
        least: share of the loss that a fall has to be.

    The standard error of the mean of the rows' differences is taken for chance.
    """
    if found.size == 0:
        return False
    falls = before - found
    error = falls.std(ddof=1) / np.sqrt(falls.size) if falls.size > 1 else 0.0
    return bool(falls.mean() > max(error, least * before.mean()))


def _lacks_to_1(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a.astype(np.float64), b.astype(np.float64)
    lengths = np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    cosines = np.divide((a * b).sum(-1), lengths, out=np.ones(len(a)), where=lengths > 0)
    return np.asarray(1 - cosines)
