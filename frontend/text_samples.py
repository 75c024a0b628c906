"""Sample inputs of a language model from real text, with and without a key/value cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir

from bitfold.models.trained import eval_text
from bitfold.passes.core.context import Feeds
from bitfold.runtime.execution import open_session

LENGTH = 128
"""Tokens of the first sample."""
PAST, STEP = 48, 8
"""Tokens in the cache, and after it, of the second sample."""


def text_samples(model: ir.Model, tokenizer: Path, text: str | None = None) -> list[Feeds]:
    """Feeds that read a text: a prompt and, where the model has a cache, its continuation.

    Damage measured on random tokens says little: the model has nothing to say about them.

    Returns:
        No samples where the model's inputs are not those of a language model, or where the
        ``tokenizers`` package is not installed: the caller synthesizes some.
    """
    names = {value.name or "" for value in model.graph.inputs}
    known = {"input_ids", "attention_mask", "position_ids", "token_type_ids"}
    caches = {name for name in names if name.startswith("past_key_values.")}
    if "input_ids" not in names or names - known - caches:
        return []
    try:
        from tokenizers import Tokenizer
    except ImportError:
        return []
    ids = Tokenizer.from_file(str(tokenizer)).encode(text or eval_text()[: 8 * LENGTH]).ids
    tokens = np.array(ids[:LENGTH], np.int64)[None]
    samples = [causal_feeds(model, tokens, {})]
    presents = {name: name.replace("past_key_values", "present") for name in caches}
    outputs = {value.name for value in model.graph.outputs}
    if caches and tokens.shape[1] >= PAST + STEP and outputs.issuperset(presents.values()):
        session = open_session(model, outputs=list(presents.values()), optimize=False)
        computed = session.run(causal_feeds(model, tokens[:, :PAST], {}))
        past = {name: computed[present] for name, present in presents.items()}
        samples.append(causal_feeds(model, tokens[:, PAST : PAST + STEP], past))
    return samples


def causal_feeds(model: ir.Model, tokens: np.ndarray, past: Feeds) -> Feeds:
    """Feeds for ``tokens`` [1, S] after the cache ``past`` (empty for none)."""
    start = next(iter(past.values())).shape[2] if past else 0
    total = start + tokens.shape[1]
    feeds: Feeds = {
        "input_ids": tokens,
        "attention_mask": np.ones((1, total), np.int64),
        "position_ids": np.arange(start, total)[None],
        "token_type_ids": np.zeros_like(tokens),
        **past,
    }
    for value in model.graph.inputs:
        if value.name is not None and value.name not in feeds and value.shape is not None:
            _, heads, _, size = value.shape
            empty = [1, heads if isinstance(heads, int) else 1, 0, size]
            feeds[value.name] = np.zeros(
                [d if isinstance(d, int) else 0 for d in empty], np.float32
            )
    return {value.name: feeds[value.name] for value in model.graph.inputs if value.name}
