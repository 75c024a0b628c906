"""Score a causal language model on a text: perplexity, and KL and top-1 against a reference.

The procedure is llama.cpp's `perplexity` tool's: the tokens are cut into chunks, each chunk is
run on its own, and only predictions made from its second half count, so that every scored token
has at least half a chunk of context.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from bitfold.runtime.errors import CalibrationError, ModelError


class SessionLike(Protocol):
    """What scoring needs of a session: ONNX Runtime's `InferenceSession` has it."""

    def get_inputs(self) -> Sequence[Any]:
        """The model's inputs, with `name`, `shape` and `type`."""

    def run(self, output_names: Sequence[str] | None, feeds: dict[str, np.ndarray]) -> Any:
        """The outputs for the named feeds."""


@dataclass(frozen=True)
class TextScore:
    """How well a model predicts a text.

    Attributes:
        perplexity: exp of the mean negative log-likelihood of the scored tokens.
        tokens: how many tokens were scored.
        chunks: how many chunks were run.
        kl: mean Kullback-Leibler divergence of reference → model over the scored positions, in
            nats; None without a reference.
        top1: share of the scored positions where both rank the same token first; or None.
        reference_perplexity: the reference's perplexity on the same tokens; or None.
    """

    perplexity: float
    tokens: int
    chunks: int
    kl: float | None = None
    top1: float | None = None
    reference_perplexity: float | None = None


def score_text(
    session: SessionLike,
    token_ids: Sequence[int] | np.ndarray,
    chunk: int = 512,
    *,
    reference: SessionLike | None = None,
    bos: int | None = None,
) -> TextScore:
    """Score a model on a tokenized text, one chunk in memory at a time.

    Chunk c holds tokens c·chunk … (c+1)·chunk - 1; what is left over at the end is not used. The
    logits at its positions chunk/2 … chunk-2 are scored on the token that follows each.

    Args:
        session: the model: `input_ids` in, `logits` out; a mask, positions and an empty K/V
            cache are fed where it has such inputs.
        token_ids: the text as one sequence of token ids, i64[n].
        chunk: the chunk length in tokens.
        reference: the model to compare with, over the same vocabulary.
        bos: for models that expect it, the begin-of-sequence token; it takes the place of each
            chunk's first token, which is never scored.

    Raises:
        CalibrationError: fewer tokens than one chunk, or a chunk too short to score.
        ModelError: an input that is no causal language model's, or vocabularies that differ.
    """
    ids = np.asarray(token_ids, np.int64)
    if chunk < 4:
        raise CalibrationError(f"a chunk needs at least 4 tokens, found {chunk}")
    if ids.ndim != 1 or len(ids) < chunk:
        raise CalibrationError(
            f"the text is too short to score: expected at least {chunk} tokens, found {ids.size}",
            hint="use a longer text or shorter chunks",
        )
    totals = _Totals()
    for tokens in _chunks(ids, chunk):
        feed = tokens.copy()
        if bos is not None:
            feed[0] = bos
        scored = slice(chunk // 2, chunk - 1)
        targets = tokens[chunk // 2 + 1 :]
        candidate = _log_softmax(logits(session, feed)[scored])
        base = None
        if reference is not None:
            base = _log_softmax(logits(reference, feed)[scored])
        totals.add(candidate, targets, base)
    return totals.score()


def logits(session: SessionLike, token_ids: np.ndarray) -> np.ndarray:
    """The logits of one sequence run from an empty cache: f32[n, vocab] for i64[n].

    Raises:
        ModelError: an input that has no known meaning for a causal language model.
    """
    return np.asarray(session.run(["logits"], causal_feed(session, token_ids))[0][0])


def causal_feed(session: SessionLike, token_ids: np.ndarray) -> dict[str, np.ndarray]:
    """The feed of one sequence i64[n] from an empty cache, for the inputs the model has."""
    count = len(token_ids)
    feed: dict[str, np.ndarray] = {}
    for item in session.get_inputs():
        if item.name == "input_ids":
            feed[item.name] = np.asarray(token_ids, np.int64)[None]
        elif item.name == "attention_mask":
            feed[item.name] = np.ones((1, count), np.int64)
        elif item.name == "position_ids":
            feed[item.name] = np.arange(count, dtype=np.int64)[None]
        elif item.name.startswith("past_key_values."):
            feed[item.name] = _empty_cache(item)
        else:
            raise ModelError(
                f"input {item.name}: not an input of a causal language model",
                hint="known: input_ids, attention_mask, position_ids, past_key_values.*",
            )
    return feed


_CACHE_TYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
}


def _empty_cache(item: Any) -> np.ndarray:
    """A cache of no tokens: the first dynamic axis is the batch, the other one the past."""
    shape = [d if isinstance(d, int) else 0 for d in item.shape]
    shape[0] = 1
    dtype = _CACHE_TYPES.get(item.type)
    if dtype is None:
        known = ", ".join(_CACHE_TYPES)
        raise ModelError(f"input {item.name}: expected one of {known}, found {item.type}")
    return np.zeros(shape, dtype)


def _chunks(ids: np.ndarray, chunk: int) -> Iterator[np.ndarray]:
    for start in range(0, len(ids) - chunk + 1, chunk):
        yield ids[start : start + chunk]


def _log_softmax(x: np.ndarray) -> np.ndarray:
    """log softmax along the last axis, in f64 (sums over 10⁵ entries lose digits in f32)."""
    shifted = x.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted


class _Totals:
    """Sums over the chunks seen so far."""

    def __init__(self) -> None:
        self._chunks = 0
        self._tokens = 0
        self._nll = 0.0
        self._base_nll = 0.0
        self._kl = 0.0
        self._same = 0
        self._compared = False

    def add(self, candidate: np.ndarray, targets: np.ndarray, base: np.ndarray | None) -> None:
        """Add one chunk: log-probabilities f64[n, vocab], the n true tokens, the reference's."""
        rows = np.arange(len(targets))
        self._chunks += 1
        self._tokens += len(targets)
        self._nll -= float(candidate[rows, targets].sum())
        if base is None:
            return
        if base.shape != candidate.shape:
            raise ModelError(
                f"vocabularies differ: the reference has {base.shape[-1]} tokens, "
                f"the model {candidate.shape[-1]}"
            )
        self._compared = True
        self._base_nll -= float(base[rows, targets].sum())
        self._same += int((base.argmax(-1) == candidate.argmax(-1)).sum())
        self._kl += float((np.exp(base) * (base - candidate)).sum())

    def score(self) -> TextScore:
        n = self._tokens
        return TextScore(
            perplexity=float(np.exp(self._nll / n)),
            tokens=n,
            chunks=self._chunks,
            kl=self._kl / n if self._compared else None,
            top1=self._same / n if self._compared else None,
            reference_perplexity=float(np.exp(self._base_nll / n)) if self._compared else None,
        )
