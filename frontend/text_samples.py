"""Sample inputs of a language model from real text, with and without a key/value cache."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import onnx_ir as ir

from bitfold.models.trained import eval_text
from bitfold.passes.core.context import Feeds
from bitfold.passes.core.own_coordinates import to_original, to_own
from bitfold.passes.core.samples import check_feeds
from bitfold.runtime.errors import BitfoldError, CalibrationError
from bitfold.runtime.execution import open_session

LENGTH = 128
"""Tokens of the first sample."""
PAST, STEP = 48, 8
"""Tokens in the cache, and after it, of the second sample."""

_TEXT_INPUTS = {"input_ids", "attention_mask", "position_ids", "token_type_ids"}
_CACHE = "past_key_values."


def text_samples(
    model: ir.Model,
    tokenizer: Path,
    text: str | None = None,
    progress: Callable[[str, float], None] = lambda text, fraction: None,
) -> list[Feeds]:
    """Feeds that read a text: a prompt and, where the model has a cache, its continuation.

    Damage measured on random tokens says little: the model has nothing to say about them.
    Axes of fixed length are filled to it, and each sample runs once before it is returned.  Caches
    are in the original coordinates.

    Returns:
        No samples where the model's inputs are not those of a language model, where the
        ``tokenizers`` package is not installed, or where the text does not suit the model (a
        note to ``progress`` says why): the caller synthesizes some.
    """
    if not reads_text(model):
        return []
    try:
        from tokenizers import Tokenizer
    except ImportError:
        return []
    try:
        try:
            read = Tokenizer.from_file(str(tokenizer))
            ids = read.encode(text or eval_text()[: 8 * LENGTH]).ids
        except Exception as error:  # the package raises bare Exceptions
            raise CalibrationError(f"{tokenizer} cannot be used ({error})") from error
        return _samples(model, ids)
    except BitfoldError as error:
        progress(f"no text as sample: {error}", 0.0)
        return []


def reads_text(model: ir.Model) -> bool:
    """Whether the model's inputs are those of a language model."""
    names = {value.name or "" for value in model.graph.inputs}
    caches = {name for name in names if name.startswith(_CACHE)}
    return "input_ids" in names and names <= _TEXT_INPUTS | caches


def causal_feeds(model: ir.Model, tokens: np.ndarray, past: Feeds) -> Feeds:
    """Feeds for ``tokens`` [B, S] after the cache ``past`` (empty for none), in the types of the
    model's inputs.

    Raises:
        CalibrationError: a cache of another layout than [batch, heads, past, size].
    """
    batch, length = tokens.shape
    start = next(iter(past.values())).shape[2] if past else 0
    given = {
        "input_ids": tokens,
        "attention_mask": np.ones((batch, start + length), np.int64),
        "position_ids": np.tile(np.arange(start, start + length), (batch, 1)),
        "token_type_ids": np.zeros_like(tokens),
        **past,
    }
    feeds: Feeds = {}
    for value in model.graph.inputs:
        name = value.name or ""
        array = given[name] if name in given else _empty_cache(value, batch)
        feeds[name] = array if value.dtype is None else array.astype(value.dtype.numpy())
    return feeds


def _empty_cache(value: ir.Value, batch: int) -> np.ndarray:
    if value.shape is None or len(value.shape) != 4:
        raise CalibrationError(
            f"input {value.name}: expected [batch, heads, past, size], found {value.shape}"
        )
    _, heads, _, size = (dim if isinstance(dim, int) else 1 for dim in value.shape)
    return np.zeros((batch, heads, 0, size), np.float32)


def _samples(model: ir.Model, ids: Iterable[int]) -> list[Feeds]:
    """The samples, each of which the model has run.

    Raises:
        BitfoldError: the text does not suit the model.
    """
    text = np.array([*ids], np.int64)
    inputs = {value.name or "": value for value in model.graph.inputs}
    _check_vocabulary(inputs["input_ids"], text)
    shape = inputs["input_ids"].shape
    if shape is None or len(shape) != 2:
        raise CalibrationError(f"input input_ids: expected [batch, sequence], found {shape}")
    batch, length = (dim if isinstance(dim, int) else None for dim in shape)
    batch = batch or 1
    # Several rows read on where the one before stopped, and begin again where the text ends.
    tokens = np.resize(text, (batch, length or min(LENGTH, len(text))))
    session = open_session(model, optimize=False)

    def tried(tokens: np.ndarray, past: Feeds) -> tuple[Feeds, Feeds]:
        feeds = causal_feeds(model, tokens, past)
        check_feeds(model.graph, feeds, "a text")
        computed = session.run(to_own(model.graph.inputs, feeds))
        return feeds, to_original(model.graph.outputs, computed)

    samples = [tried(tokens, {})[0]]
    presents = {
        name: name.replace("past_key_values", "present")
        for name in inputs
        if name.startswith(_CACHE)
    }
    outputs = {value.name for value in model.graph.outputs}
    # Fused attention takes several new tokens after a cache for one sequence only.
    steps = batch == 1 and length is None and tokens.shape[1] >= PAST + STEP
    if presents and steps and outputs.issuperset(presents.values()):
        _, computed = tried(tokens[:, :PAST], {})
        past = {name: computed[present] for name, present in presents.items()}
        samples.append(tried(tokens[:, PAST : PAST + STEP], past)[0])
    return samples


def _check_vocabulary(ids: ir.Value, text: np.ndarray) -> None:
    """Raise where the text has tokens that the table looked up with ``ids`` lacks."""
    if text.size == 0:
        raise CalibrationError("the tokenizer finds no tokens in the text")
    pending = [ids]
    while pending:
        for node, index in pending.pop().uses():
            if node.op_type == "Cast":
                pending.append(node.outputs[0])
            table = node.inputs[0]
            if node.op_type != "Gather" or index != 1 or table is None or table.shape is None:
                continue
            rows = table.shape[0]
            if isinstance(rows, int) and text.max() >= rows:
                raise CalibrationError(
                    f"the tokenizer is another model's: it gives token {text.max()}, the "
                    f"embedding has {rows} rows"
                )
