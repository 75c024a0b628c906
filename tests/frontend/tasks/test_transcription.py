"""Transcription by a small Whisper with random weights on made-up clips."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from support.language_models import write_tokenizer
from support.small_encoders import WHISPER, draw_weights

from bitfold.frontend.evaluate import evaluate
from bitfold.frontend.tasks import whisper
from bitfold.frontend.tasks.task import Setting
from bitfold.frontend.tasks.transcription import Clip, Transcription, pair
from bitfold.frontend.tasks.word_errors import count_word_errors, plain_words
from bitfold.frontend.text_tokenizer import TextTokenizer
from bitfold.models.librivox_clips import read_transcripts
from bitfold.models.tiny import TINY
from bitfold.models.whisper_decoder import build_decoder
from bitfold.models.whisper_encoder import build_encoder
from bitfold.passes.core.context import Context
from bitfold.passes.core.pipeline import Pipeline
from bitfold.runtime.errors import ModelError, UnsupportedError
from bitfold.runtime.session import Session

NEVER, NOT_FIRST = [40, 41], [5]


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """An encoder and a decoder; special tokens are at the end of their small vocabulary."""
    monkeypatch.setattr(whisper, "END", 0)
    monkeypatch.setattr(whisper, "PROMPT", (57, 58))
    monkeypatch.setattr("bitfold.frontend.tasks.transcription.PROMPT", (57, 58))
    monkeypatch.setattr(whisper, "LONGEST", 8)
    write_tokenizer(tmp_path, 57)
    settings = {"suppress_tokens": NEVER, "begin_suppress_tokens": NOT_FIRST}
    (tmp_path / "generation_config.json").write_text(json.dumps(settings))
    encoder, decoder = tmp_path / "encoder.onnx", tmp_path / "decoder.onnx"
    ir.save(build_encoder(WHISPER, draw_weights(WHISPER.encoder_shapes(), 1)), encoder)
    ir.save(build_decoder(WHISPER, draw_weights(WHISPER.decoder_shapes(), 2)), decoder)
    return encoder, decoder


@pytest.fixture
def clips(monkeypatch: pytest.MonkeyPatch) -> list[Clip]:
    rng = np.random.default_rng(0)
    shape = (WHISPER.mels, 2 * WHISPER.frames)
    words = ("the cat", "a b c")
    made = [Clip(rng.standard_normal(shape).astype(np.float32), text) for text in words]
    monkeypatch.setattr(
        "bitfold.frontend.tasks.transcription.load_clips", lambda setting: made[: setting.limit]
    )
    return made


def _logits(decoder: Session, tokens: list[int], states: np.ndarray) -> np.ndarray:
    """All at once, without caches of earlier steps."""
    return decoder.run(whisper.first_feeds(decoder, [57, 58, *tokens], states))["logits"][0]


def test_greedy_decoding_picks_the_largest_allowed(
    parts: tuple[Path, Path], clips: list[Clip]
) -> None:
    encoder, decoder = (Session(path, threads=1) for path in parts)
    for clip in clips:
        states = whisper.encode(encoder, clip.mel)
        expected: list[int] = []
        while len(expected) < 8:
            last = _logits(decoder, expected, states)[-1]
            banned = {*NEVER, *(NOT_FIRST if not expected else [])}
            token = max((i for i in range(len(last)) if i not in banned), key=lambda i: last[i])
            if token == 0:
                break
            expected.append(token)
        assert whisper.transcribe(decoder, states) == expected


def test_banned_tokens_are_those_beside_the_model(
    parts: tuple[Path, Path], clips: list[Clip]
) -> None:
    encoder, decoder = (Session(path, threads=1) for path in parts)
    states = whisper.encode(encoder, clips[0].mel)
    first = whisper.transcribe(decoder, states)[0]
    settings = {"suppress_tokens": [], "begin_suppress_tokens": [first]}
    (parts[1].parent / "generation_config.json").write_text(json.dumps(settings))
    assert whisper.transcribe(decoder, states)[0] != first
    (parts[1].parent / "generation_config.json").unlink()
    with pytest.raises(ModelError, match="generation settings"):
        whisper.transcribe(decoder, states)


def test_likelihood_is_that_of_a_plain_loop(parts: tuple[Path, Path], clips: list[Clip]) -> None:
    encoder, decoder = (Session(path, threads=1) for path in parts)
    states = whisper.encode(encoder, clips[0].mel)
    tokens, total = [4, 9, 2], 0.0
    for i, target in enumerate([*tokens, 0]):
        row = _logits(decoder, tokens[:i], states)[-1].astype(np.float64)
        total += np.log(np.exp(row).sum()) - row[target]
    found, count = whisper.negative_log_likelihood(decoder, states, tokens)
    assert count == 4
    assert found == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("which", [0, 1])
def test_score_of_either_part(parts: tuple[Path, Path], clips: list[Clip], which: int) -> None:
    companion = parts[1 - which]
    found = evaluate(
        parts[which], parts[which], task="transcription", companion=companion, threads=1
    ).task
    assert found is not None
    assert found.cosine == pytest.approx(1, abs=1e-6)
    assert found.inputs == (2 if which == 0 else 4)
    encoder, decoder = (Session(path, threads=1) for path in parts)
    tokenizer = TextTokenizer(parts[1].parent)
    errors = 0
    for clip in clips:
        text = tokenizer.decode(whisper.transcribe(decoder, whisper.encode(encoder, clip.mel)))
        errors += count_word_errors(clip.words.split(), plain_words(text))
    assert found.score.value == pytest.approx(errors / 5)
    assert found.score.details["word errors"] == errors > 0
    assert found.score.samples == 2
    assert not found.score.higher_is_better


def test_feeds_fit_the_decoder(parts: tuple[Path, Path], clips: list[Clip]) -> None:
    decoder = Session(parts[1], threads=1)
    feeds = Transcription().feeds(decoder, Setting(companion=parts[0], limit=1))
    assert [each["input_ids"].shape[1] for each in feeds] == [2 + len(" the cat") - 1, 1]
    assert feeds[1]["encoder_hidden_states"].shape[1] == 0
    for each in feeds:
        decoder.run(each)


def test_caches_in_coordinates_of_the_models_own(
    parts: tuple[Path, Path], clips: list[Clip]
) -> None:
    """A decoder whose values are rotated is the same decoder, and measured on the same inputs."""
    encoder, decoder, turned = *parts, parts[1].with_name("rotated.onnx")
    wide = replace(WHISPER, heads=1)  # a head's channels are enough to rotate
    ir.save(build_decoder(wide, draw_weights(WHISPER.decoder_shapes(), 2)), decoder)
    with Context() as context:
        recipe = "canonicalize, fold-norm-gain, ln-to-rms, rotate"
        rotated, _ = Pipeline(recipe, context, verify="off").run(ir.load(decoder))
        ir.save(rotated, turned)
    setting = Setting(companion=encoder)
    own, other = (Session(path, threads=1) for path in (turned, decoder))
    outputs = [each.run(Transcription().feeds(other, setting)[0]) for each in (own, other)]
    name = "present.0.decoder.value"
    assert np.abs(outputs[0][name] - outputs[1][name]).max() > 0.1  # they are rotated
    pairs = zip(*(Transcription().feeds(each, setting) for each in (own, other)), strict=True)
    for mine, theirs in pairs:
        for each in theirs:
            np.testing.assert_allclose(mine[each], theirs[each], atol=1e-4)
    found = evaluate(turned, decoder, task="transcription", companion=encoder, threads=1).task
    assert found is not None
    assert found.cosine == pytest.approx(1, abs=1e-6)


def test_companions_that_do_not_fit(parts: tuple[Path, Path], tmp_path: Path) -> None:
    encoder, decoder = parts
    with pytest.raises(UnsupportedError, match="expected Whisper's decoder"):
        pair(Session(encoder, threads=1), Setting(companion=encoder))
    with pytest.raises(UnsupportedError, match="expected Whisper's encoder"):
        pair(Session(decoder, threads=1), Setting(companion=decoder))
    ir.save(TINY["bert"](0), tmp_path / "bert.onnx")
    with pytest.raises(UnsupportedError, match="no part of Whisper"):
        pair(Session(tmp_path / "bert.onnx", threads=1), Setting())


def test_transcripts(tmp_path: Path) -> None:
    path = tmp_path / "transcription"
    path.write_text("<s> he was not </s> (clip-1)\n<s> an ill  </s> (clip-2)\n")
    assert read_transcripts(path) == {"clip-1": "he was not", "clip-2": "an ill"}
    path.write_text("he was not (clip-1)\n")
    with pytest.raises(ModelError, match="expected '<s> words"):
        read_transcripts(path)
