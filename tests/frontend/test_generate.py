"""Generation: what is chosen, when it stops, and how text comes out in pieces."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support.language_models import CONFIG, write_llama, write_tokenizer

from bitfold.frontend.generate import Sampling, choose, generate, generate_tokens
from bitfold.frontend.text_tokenizer import TextTokenizer
from bitfold.runtime.errors import CalibrationError, ModelError, UnsupportedError
from bitfold.runtime.session import Session


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = write_llama(tmp_path / "llama.onnx")
    write_tokenizer(tmp_path, CONFIG.vocab)
    return path


def test_greedy_is_the_argmax_loop_without_a_cache(model: Path) -> None:
    session = Session(model, threads=1)
    text = [5, 17, 3]
    expected = list(text)
    for _ in range(12):
        logits = session.decoder().step(expected)
        expected.append(int(logits[0, -1].argmax()))
    found = list(generate_tokens(session.decoder(), text, max_tokens=12))
    assert found == expected[3:]
    assert len(set(found)) > 1


def test_stop_ends_before_the_token(model: Path) -> None:
    session = Session(model, threads=1)
    free = list(generate_tokens(session.decoder(), [5, 17, 3], max_tokens=12))
    stop = free[4]
    first = free.index(stop)
    found = list(generate_tokens(session.decoder(), [5, 17, 3], max_tokens=12, stop={stop}))
    assert found == free[:first]


def test_sampling_depends_on_the_seed_alone(model: Path) -> None:
    session = Session(model, threads=1)

    def run(seed: int) -> list[int]:
        sampling = Sampling(temperature=1.5, top_k=20, top_p=0.95, seed=seed)
        return list(generate_tokens(session.decoder(), [1], max_tokens=20, sampling=sampling))

    assert run(3) == run(3)
    assert len({tuple(run(seed)) for seed in range(4)}) > 1


def test_choose_follows_the_probabilities() -> None:
    logits = np.log(np.array([0.1, 0.6, 0.05, 0.25]))
    rng = np.random.default_rng(0)
    drawn = [choose(logits, Sampling(temperature=1.0), rng) for _ in range(4000)]
    share = np.bincount(drawn, minlength=4) / len(drawn)
    np.testing.assert_allclose(share, [0.1, 0.6, 0.05, 0.25], atol=0.03)


@pytest.mark.parametrize(
    ("sampling", "allowed"),
    [
        (Sampling(temperature=1.0, top_k=2), {1, 3}),
        (Sampling(temperature=1.0, top_p=0.5), {1}),
        (Sampling(temperature=1.0, top_p=0.7), {1, 3}),
        (Sampling(temperature=1.0, top_k=3, top_p=0.99), {0, 1, 3}),
        (Sampling(temperature=1e-6), {1}),
        (Sampling(), {1}),
    ],
)
def test_what_may_be_chosen(sampling: Sampling, allowed: set[int]) -> None:
    logits = np.log(np.array([0.1, 0.6, 0.05, 0.25]))
    rng = np.random.default_rng(0)
    assert {choose(logits, sampling, rng) for _ in range(500)} == allowed


@pytest.mark.parametrize("bad", [{"temperature": -1}, {"top_k": -1}, {"top_p": 0}, {"top_p": 1.1}])
def test_bad_options(bad: dict[str, float]) -> None:
    with pytest.raises(UnsupportedError):
        Sampling(**bad)  # type: ignore[arg-type]


def test_text_in_text_out(model: Path) -> None:
    tokenizer = TextTokenizer(model.parent)
    ids = tokenizer.encode("ab")
    tokens = list(generate_tokens(Session(model).decoder(), ids, max_tokens=10))
    tokens = tokens[: next((i for i, t in enumerate(tokens) if t in tokenizer.stop_ids), 10)]
    assert "".join(generate(model, "ab", max_tokens=10)) == tokenizer.decode(tokens)


def test_stream_holds_back_unfinished_characters(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, 300)
    tokenizer = TextTokenizer(tmp_path)
    text = "a é €😀 b"
    ids = tokenizer.encode(text)
    assert len(ids) > len(text)  # bytes, not characters
    pieces = list(tokenizer.stream(ids))
    assert "".join(pieces) == text
    assert len(pieces) == len(text)
    assert all("\ufffd" not in piece for piece in pieces)
    cut = tokenizer.encode("a€")[:-1]
    assert list(tokenizer.stream(cut)) == ["a", "\ufffd"]


def test_empty_prompt(model: Path) -> None:
    with pytest.raises(CalibrationError, match="empty"):
        generate(model, "")
    (model.parent / "generation_config.json").write_text('{"bos_token_id": 0}')
    assert TextTokenizer(model.parent).bos_id == 0
    list(generate(model, "", max_tokens=2))


def test_special_tokens_from_either_file(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, 64)
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": {"content": "<|end|>"}, "model_max_length": 2048})
    )
    tokenizer = TextTokenizer(tmp_path)
    assert tokenizer.stop_ids == {0}
    assert tokenizer.context == 2048
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [0, 7]}')
    assert TextTokenizer(tmp_path).stop_ids == {0, 7}


def test_tokenizer_errors_are_clear(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        TextTokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match="broken tokenizer"):
        TextTokenizer(tmp_path)
