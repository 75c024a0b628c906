"""Text that a language model writes itself, for want of any other."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bitfold.runtime.errors import UnsupportedError
from bitfold.runtime.session import Session

TEXTS, LENGTH = 32, 512
"""Texts that are written, and tokens of each."""

CERTAIN = 4
"""Tokens behind the first that are the likeliest ones, before the others are drawn."""


def self_text(
    path: str | os.PathLike[str],
    *,
    seed: int = 0,
    texts: int = TEXTS,
    length: int = LENGTH,
    first: int | None = None,
    progress: Callable[[str, float], None] = lambda text, fraction: None,
) -> np.ndarray:
    """Token ids [texts, length] of texts that a language model writes.

    Each begins with a token drawn from the whole vocabulary; a few likeliest ones follow, so that
    it gets to some sense, and then tokens drawn by their probabilities, so that texts differ
    (LLM-QAT: Liu et al., arXiv 2305.17888, section 3.1, "generate").  All are written side by side.

    Args:
        path: an ONNX file.
        seed: the only source of randomness.
        first: a token before all that starts a text, where the model wants one.

    Raises:
        UnsupportedError: the model is no language model that goes on from token to token.
    """
    decoder = Session(Path(path)).decoder(batch=texts, capacity=length)
    rng = np.random.default_rng([seed, *b"self-text"])
    logits = decoder.step(np.zeros((texts, 1), np.int64))
    if logits.ndim != 3 or logits.shape[:2] != (texts, 1):
        raise UnsupportedError(
            f"{Path(path).name}: expected logits [batch, sequence, vocabulary], found "
            f"{list(logits.shape)}"
        )
    vocabulary = logits.shape[2]
    decoder.reset()
    start = rng.permutation(vocabulary)[np.arange(texts) % vocabulary][:, None]
    if first is not None:
        start = np.concatenate([np.full((texts, 1), first), start], axis=1)
    ids = np.zeros((texts, length), np.int64)
    ids[:, : start.shape[1]] = start[:, :length]
    known = start.shape[1]
    new = ids[:, :known]
    for place in range(known, length):
        logits = decoder.step(new)[:, -1].astype(np.float64)
        certain = place < known + CERTAIN
        ids[:, place] = logits.argmax(-1) if certain else drawn(logits, rng.random(texts))
        new = ids[:, place : place + 1]
        progress("writing text to calibrate with", place / length)
    return ids


def drawn(logits: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """For each row of logits [N, V], the token at a place ``uniform`` [N] of its distribution."""
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    sums = np.cumsum(weights, axis=-1)
    places = uniform * sums[:, -1]
    found = [np.searchsorted(*each, "right") for each in zip(sums, places, strict=True)]
    return np.minimum(np.array(found), logits.shape[-1] - 1)
