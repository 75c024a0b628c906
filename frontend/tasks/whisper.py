"""Run Whisper's two parts together: greedy decoding, and the likelihood of given words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bitfold.frontend.importers.tokenizer import GENERATION_CONFIG
from bitfold.passes.core.context import Feeds
from bitfold.runtime.errors import ModelError
from bitfold.runtime.session import Session

START, NO_TIMESTAMPS, END = 50257, 50362, 50256
"""Tokens of the English-only models."""
PROMPT = (START, NO_TIMESTAMPS)
LONGEST = 224
"""Tokens of a transcript, at most: half of what the decoder holds, as in the paper's code."""

_PAST = "past_key_values."
_PRESENT = "present."


def is_encoder(session: Session) -> bool:
    """Whether a model is an encoder of spectrograms."""
    return [value.name for value in session.inputs] == ["input_features"]


def is_decoder(session: Session) -> bool:
    """Whether a model is a decoder that reads an encoder's states."""
    names = {value.name for value in session.inputs}
    return {"input_ids", "encoder_hidden_states"} <= names


def encode(encoder: Session, mel: np.ndarray) -> np.ndarray:
    """The hidden states f32[1, frames, dim] of a spectrogram f32[mels, 2·frames]."""
    return encoder.run({"input_features": mel[None]})["last_hidden_state"]


def first_feeds(decoder: Session, tokens: Sequence[int], states: np.ndarray) -> Feeds:
    """Feeds of the first step: tokens, all the encoder's states, and empty caches."""
    feeds: Feeds = {
        "input_ids": np.asarray([tokens], np.int64),
        "encoder_hidden_states": states,
    }
    for value in decoder.inputs:
        if value.name.startswith(_PAST):
            heads, size = value.shape[1], value.shape[3]
            if not (isinstance(heads, int) and isinstance(size, int)):
                raise ModelError(f"{decoder.path.name}: {value.name} has no fixed heads and sizes")
            feeds[value.name] = np.zeros((1, heads, 0, size), np.float32)
    return feeds


def next_feeds(tokens: Sequence[int], states: np.ndarray, outputs: Feeds) -> Feeds:
    """Feeds of a later step: new tokens, no states, and the caches of the step before."""
    caches = {
        _PAST + name.removeprefix(_PRESENT): array
        for name, array in outputs.items()
        if name.startswith(_PRESENT)
    }
    return {
        "input_ids": np.asarray([tokens], np.int64),
        "encoder_hidden_states": states[:, :0],
        **caches,
    }


def transcribe(decoder: Session, states: np.ndarray) -> list[int]:
    """The most likely tokens, one after the other, without prompt and end."""
    always, at_first = suppressed(decoder.path.parent)
    tokens: list[int] = []
    outputs = decoder.run(first_feeds(decoder, PROMPT, states))
    while len(tokens) < LONGEST:
        logits = outputs["logits"][0, -1].copy()
        logits[always] = -np.inf
        if not tokens:
            logits[at_first] = -np.inf
        token = int(logits.argmax())
        if token == END:
            break
        tokens.append(token)
        outputs = decoder.run(next_feeds([token], states, outputs))
    return tokens


def negative_log_likelihood(
    decoder: Session, states: np.ndarray, tokens: Sequence[int]
) -> tuple[float, int]:
    """The summed -log p of tokens and the end after them, each given those before; and how many.

    In nats. The tokens are fed at once (teacher forcing).
    """
    fed, targets = [*PROMPT, *tokens], [*tokens, END]
    logits = decoder.run(first_feeds(decoder, fed, states), ["logits"])["logits"][0]
    scored = logits[len(PROMPT) - 1 :].astype(np.float64)
    scored -= scored.max(-1, keepdims=True)
    log_p = scored - np.log(np.exp(scored).sum(-1, keepdims=True))
    return -float(log_p[np.arange(len(targets)), targets].sum()), len(targets)


def suppressed(folder: Path) -> tuple[list[int], list[int]]:
    """Tokens that a transcript never has, and those that it never starts with.

    Raises:
        ModelError: the file beside the model that says so is missing or broken.
    """
    path = folder / GENERATION_CONFIG
    try:
        config = json.loads(path.read_text("utf-8"))
        return list(config["suppress_tokens"]), list(config["begin_suppress_tokens"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{path}: expected Whisper's generation settings beside the decoder ({error!r})"
        ) from error
