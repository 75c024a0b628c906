"""Generate text with a language model: greedy or sampled, one piece at a time."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bitfold.frontend.text_tokenizer import TextTokenizer
from bitfold.runtime.decoder import Decoder
from bitfold.runtime.errors import CalibrationError, UnsupportedError
from bitfold.runtime.session import Session


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen from its probabilities.

    Attributes:
        temperature: divides the logits; 0 takes the most likely token (greedy).
        top_k: only the k most likely tokens count; 0 for all.
        top_p: only the fewest tokens whose probabilities reach this sum count (nucleus
            sampling; Holtzman et al., 2020, arXiv 1904.09751); 1 for all.
        seed: the only source of randomness.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise UnsupportedError(f"expected a temperature of 0 or more, found {self.temperature}")
        if self.top_k < 0:
            raise UnsupportedError(f"expected top_k of 0 or more, found {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise UnsupportedError(f"expected top_p above 0 and up to 1, found {self.top_p}")


def generate(
    model: str | os.PathLike[str] | Session,
    prompt: str,
    *,
    max_tokens: int = 64,
    sampling: Sampling = Sampling(),
    threads: int | None = None,
    tokenizer: TextTokenizer | None = None,
) -> Iterator[str]:
    """Continue a text; yields the new text piece by piece.

    Args:
        model: an ONNX file, or a session over one.
        prompt: the text to continue; empty only where the model has a token that starts a text.
        max_tokens: stop after this many new tokens, or earlier at the model's end-of-text token.
        tokenizer: the model's; by default what lies beside the model file.

    Raises:
        ModelError: the model or its tokenizer is missing or broken.
        UnsupportedError: the model is no language model.
        CalibrationError: the prompt holds no token.
    """
    session = model if isinstance(model, Session) else Session(Path(model), threads=threads)
    tokenizer = tokenizer or TextTokenizer(session.path.parent)
    ids = prompt_ids(tokenizer, prompt)
    tokens = generate_tokens(
        session.decoder(capacity=len(ids) + max_tokens),
        ids,
        max_tokens=max_tokens,
        sampling=sampling,
        stop=tokenizer.stop_ids,
    )
    return tokenizer.stream(tokens)


def prompt_ids(tokenizer: TextTokenizer, prompt: str) -> list[int]:
    """The token ids of a prompt; at least one.

    Raises:
        CalibrationError: the prompt is empty and nothing can start a text.
    """
    ids = tokenizer.encode(prompt)
    if ids:
        return ids
    if tokenizer.bos_id is None:
        raise CalibrationError("the prompt is empty", "give at least one word to continue")
    return [tokenizer.bos_id]


def generate_tokens(
    decoder: Decoder,
    prompt: Sequence[int],
    *,
    max_tokens: int,
    sampling: Sampling = Sampling(),
    stop: Collection[int] = (),
) -> Iterator[int]:
    """Continue ``prompt`` by up to ``max_tokens`` token ids; a token in ``stop`` ends it.

    The decoder may be in the middle of a text; it ends up one token behind what was yielded.
    """
    rng = np.random.default_rng(sampling.seed)
    tokens = list(prompt)
    for _ in range(max_tokens):
        logits = decoder.step(tokens)
        token = choose(logits[0, -1], sampling, rng)
        if token in stop:
            return
        yield token
        tokens = [token]


def choose(logits: np.ndarray, sampling: Sampling, rng: np.random.Generator) -> int:
    """Choose a token by its logits f32[vocab]."""
    if sampling.temperature == 0:
        return int(logits.argmax())
    scaled = logits.astype(np.float64)
    # A stable sort from the most likely down: equal logits keep the same order everywhere.
    order = np.argsort(-scaled, kind="stable")
    if sampling.top_k:
        order = order[: sampling.top_k]
    scaled = (scaled[order] - scaled[order[0]]) / sampling.temperature
    weights = np.exp(scaled)
    weights /= weights.sum()
    if sampling.top_p < 1:
        # The token that crosses the sum belongs to the nucleus.
        count = int(np.searchsorted(np.cumsum(weights), sampling.top_p)) + 1
        order, weights = order[:count], weights[:count]
        weights /= weights.sum()
    drawn = np.searchsorted(np.cumsum(weights), rng.random(), side="right")
    return int(order[min(int(drawn), len(order) - 1)])
