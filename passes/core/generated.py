"""Sample inputs of a language model that the model itself writes, key/value cache included.

Random tokens and a random cache are far from anything a language model ever sees: quantizing
harms them several times as much as text.  What the model generates is close to text, and needs
no data (the idea of LLM-QAT, arXiv 2305.17888).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from bitfold.passes.core.compare import logits_name
from bitfold.passes.core.context import Feeds

Run = Callable[[Feeds], Mapping[str, np.ndarray]]

PROMPT, CONTINUATION = 12, 4
"""Tokens of the first sample, and of the second, which continues it."""


def generate_samples(prompt: Feeds, cached: bool, run: Run) -> list[Feeds] | None:
    """A prompt, its continuation and a step of a batch of two; the prompt alone without a cache.

    Args:
        prompt: one synthesized sequence; its first token is kept and the others rewritten.
        cached: whether the model has a key/value cache, which is empty in ``prompt``.
        run: runs the model once.

    Returns:
        None where the model's inputs or outputs are not those of a causal language model.
    """
    ids = prompt.get("input_ids")
    if ids is None or ids.ndim != 2 or ids.shape[0] != 1 or not _known_inputs(prompt):
        return None
    total = PROMPT + CONTINUATION
    if ids.shape[1] < total:
        return None
    ids = ids[:, :total].copy()
    rng = np.random.default_rng(int(ids[0, 0]))
    for length in range(1, total):
        outputs = run(_cut(prompt, ids, 0, length))
        name = logits_name(outputs)
        if name is None or outputs[name].shape[:2] != (1, length):
            return None
        ids[0, length] = _draw(outputs[name][0, -1], rng)
    first = _cut(prompt, ids, 0, PROMPT)
    if not cached:
        return [first]
    past = _as_past(prompt, run(first))
    if past is None:
        return None
    continuation = {**_cut(prompt, ids, PROMPT, total), **past}
    step = {**_cut(prompt, ids, PROMPT, PROMPT + 1), **past}
    return [first, continuation, {name: np.repeat(a, 2, axis=0) for name, a in step.items()}]


def _known_inputs(feeds: Feeds) -> bool:
    named = ("input_ids", "attention_mask", "position_ids")
    return all(name in named or name.startswith(("past", "cache")) for name in feeds)


def _cut(prompt: Feeds, ids: np.ndarray, start: int, stop: int) -> Feeds:
    """The inputs for tokens ``start`` to ``stop``; what the cache holds is not yet there."""
    feeds = dict(prompt)
    feeds["input_ids"] = ids[:, start:stop].copy()
    if "attention_mask" in prompt:
        feeds["attention_mask"] = np.ones((1, stop), prompt["attention_mask"].dtype)
    if "position_ids" in prompt:
        feeds["position_ids"] = np.arange(start, stop, dtype=prompt["position_ids"].dtype)[None]
    return feeds


def _as_past(prompt: Feeds, outputs: Mapping[str, np.ndarray]) -> Feeds | None:
    """The caches that a run left, under the names that the next one takes them by."""
    names = [name for name in prompt if name.startswith(("past", "cache"))]
    left = [array for name, array in outputs.items() if name.startswith(("present", "new"))]
    if len(names) != len(left):
        return None
    past = dict(zip(names, left, strict=True))
    fits = all(past[n].ndim == prompt[n].ndim and past[n].dtype == prompt[n].dtype for n in names)
    return past if fits else None


def _draw(logits: np.ndarray, rng: np.random.Generator) -> int:
    """One token from the softmax of ``logits``: [V] → index."""
    z = logits.astype(np.float64)
    weights = np.exp(z - z.max())
    if not np.isfinite(weights).all():
        return 0 if np.isnan(logits).all() else int(np.nanargmax(logits))
    return int(rng.choice(len(weights), p=weights / weights.sum()))
