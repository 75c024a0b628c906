"""The trained model: it predicts its held-out text, and its K/V cache is exact."""

from __future__ import annotations

import builtins
import hashlib
import json
import math
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from tokenizers import Tokenizer

from bitfold.models import trained
from bitfold.models.llama import build_llama
from bitfold.models.trained import corpus
from bitfold.runtime.errors import UnsupportedError

WINDOW = 512
BITS_PER_BYTE = 1.85
"""More than the held-out text takes; gzip needs 2.39, and xz primed with the training text 1.87."""


def serialize(model: ir.Model) -> bytes:
    return ir.to_proto(model).SerializeToString(deterministic=True)


@cache
def session() -> ort.InferenceSession:
    return ort.InferenceSession(serialize(trained.load()))


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(trained.tokenizer_path()))


def forward(
    target: ort.InferenceSession, ids: list[int], past: list[np.ndarray] | None = None
) -> tuple[np.ndarray, list[np.ndarray]]:
    """The logits [sequence, vocab] of a sequence, and the cache after it."""
    shape = trained.config()
    if past is None:
        empty = np.zeros((1, shape.kv_heads, 0, shape.head_dim), np.float32)
        past = [empty] * (2 * shape.layers)
    done = past[0].shape[2]
    feeds: dict[str, Any] = {
        "input_ids": np.array([ids], np.int64),
        "attention_mask": np.ones((1, done + len(ids)), np.int64),
        "position_ids": np.arange(done, done + len(ids), dtype=np.int64)[None],
    }
    for i in range(shape.layers):
        feeds[f"past_key_values.{i}.key"] = past[2 * i]
        feeds[f"past_key_values.{i}.value"] = past[2 * i + 1]
    logits, *present = target.run(None, feeds)
    return logits[0], present


def mean_nats(target: ort.InferenceSession, ids: list[int]) -> float:
    """Mean -log p of every token but the first of each window, in nats."""
    total, count = 0.0, 0
    for start in range(0, len(ids) - 1, WINDOW):
        chunk = ids[start : start + WINDOW + 1]
        logits = forward(target, chunk[:-1])[0].astype(np.float64)
        top = logits.max(axis=1, keepdims=True)
        norm = top[:, 0] + np.log(np.exp(logits - top).sum(axis=1))
        total += float((norm - logits[np.arange(len(chunk) - 1), chunk[1:]]).sum())
        count += len(chunk) - 1
    return total / count


def test_is_valid_and_the_same_each_time() -> None:
    proto = ir.to_proto(trained.load())
    onnx.checker.check_model(proto, full_check=True)
    first = hashlib.sha256(serialize(trained.load())).hexdigest()
    assert first == hashlib.sha256(serialize(trained.load())).hexdigest()


def test_shape_exercises_the_quantizers() -> None:
    shape = trained.config()
    assert shape.tied_head
    assert 1 < shape.kv_heads < shape.heads
    for width in (shape.dim, shape.ffn, shape.heads * shape.head_dim, shape.head_dim):
        assert width % 32 == 0
    assert shape.vocab == tokenizer().get_vocab_size()


def test_file_is_small() -> None:
    size = (trained.tokenizer_path().parent / "model.safetensors").stat().st_size
    assert size < 3_000_000


def test_predicts_the_held_out_text() -> None:
    text = trained.eval_text()
    ids = tokenizer().encode(text).ids
    bits = mean_nats(session(), ids) / math.log(2) * (len(ids) - 1) / len(text.encode())
    assert bits < BITS_PER_BYTE


def test_predicts_far_better_than_the_untrained_architecture() -> None:
    rng = np.random.default_rng(0)
    random = {
        name: (rng.standard_normal(shape) * 0.05).astype(np.float32)
        if len(shape) == 2
        else np.ones(shape, np.float32)
        for name, shape in trained.config().weight_shapes().items()
    }
    untrained = ort.InferenceSession(serialize(build_llama(trained.config(), random)))
    ids = tokenizer().encode(trained.eval_text()).ids[: 4 * WINDOW + 1]
    assert math.exp(mean_nats(session(), ids)) < 0.08 * math.exp(mean_nats(untrained, ids))


def test_context_helps() -> None:
    """A token late in a window is easier than the same kind of token near its start."""
    ids = tokenizer().encode(trained.eval_text()).ids
    early = np.mean([mean_nats(session(), ids[s : s + 17]) for s in range(0, 16000, 500)])
    whole = mean_nats(session(), ids[:16000])
    assert whole < early - 0.3


def test_greedy_generation_with_cache_equals_forward_without() -> None:
    prompt = tokenizer().encode('The "for" statement is used to iterate').ids
    logits, past = forward(session(), prompt)
    ids = list(prompt)
    for _ in range(32):
        ids.append(int(logits[-1].argmax()))
        logits, past = forward(session(), ids[-1:], past)
        whole, fresh = forward(session(), ids)
        np.testing.assert_allclose(logits[-1], whole[-1], rtol=0, atol=2e-4)
        assert logits[-1].argmax() == whole[-1].argmax()
    for cached, recomputed in zip(past, fresh, strict=True):
        assert cached.shape[2] == len(ids)
        np.testing.assert_allclose(cached, recomputed, rtol=0, atol=2e-4)
    assert tokenizer().decode(ids[len(prompt) :]).isascii()


def test_tokenizer_round_trips_any_bytes() -> None:
    for text in (trained.eval_text(), "naïve «quotes» \t\n\n  x", "日本語 🙂\x00\r\n"):
        assert tokenizer().decode(tokenizer().encode(text).ids) == text


def paragraphs(text: str) -> set[str]:
    """The paragraphs long enough that a second occurrence is a copy."""
    found = {" ".join(p.split()) for p in text.split("\n\n")}
    return {p for p in found if len(p) >= 24}


def test_excerpts_are_apart() -> None:
    held_out = trained.eval_text()
    assert 60_000 < len(held_out.encode()) <= corpus.EVAL_BYTES
    assert "\r" not in held_out
    assert not paragraphs(held_out) & paragraphs(trained.calibration_text())


def test_split_holds_out_what_is_not_in_the_training_part() -> None:
    text = corpus.unique_text()
    training, validation, held_out = corpus.split(text)
    assert training + validation + held_out == text
    assert min(len(training), len(validation), len(held_out)) > 10_000
    assert not paragraphs(held_out) & paragraphs(training + validation)
    assert not paragraphs(validation) & paragraphs(training)


def test_excerpts_are_what_the_script_cuts() -> None:
    """Where the running Python has the text that was trained on, the split gives these files."""
    origin = json.loads((trained.tokenizer_path().parent / "config.json").read_text("utf-8"))
    text = corpus.unique_text()
    if hashlib.sha256(text.encode()).hexdigest() != origin["trained_by"]["text_sha256"]:
        pytest.skip(f"another text than {origin['trained_by']['text']}")
    training, _, held_out = corpus.split(text)
    assert held_out == trained.eval_text()
    assert training.startswith(trained.calibration_text())


def test_missing_safetensors_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("safetensors"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UnsupportedError, match="safetensors") as caught:
        trained.load()
    assert "bitfold[models]" in caught.value.hint
