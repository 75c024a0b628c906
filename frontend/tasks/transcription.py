"""Transcription: word errors on read speech."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bitfold.frontend.sources import find_model
from bitfold.frontend.tasks.log_mel import log_mel, read_wav
from bitfold.frontend.tasks.original import in_original
from bitfold.frontend.tasks.task import Score, Setting
from bitfold.frontend.tasks.whisper import (
    PROMPT,
    encode,
    first_feeds,
    is_decoder,
    is_encoder,
    negative_log_likelihood,
    next_feeds,
    transcribe,
)
from bitfold.frontend.tasks.word_errors import count_word_errors, plain_words
from bitfold.frontend.text_tokenizer import TextTokenizer
from bitfold.passes.core.context import Feeds
from bitfold.runtime.errors import UnsupportedError
from bitfold.runtime.session import Session

ENCODER, DECODER = "whisper-tiny.en-encoder", "whisper-tiny.en-decoder"
"""The catalogue's parts: they complete a part that comes without its companion."""


@dataclass(frozen=True)
class Clip:
    """A spoken sentence.

    Attributes:
        mel: its spectrogram, f32[80, 3000].
        words: what is said, in lower case.
    """

    mel: np.ndarray
    words: str


class Transcription:
    """Word error rate of Whisper's greedy transcripts, and the likelihood of the true words."""

    name = "transcription"
    summary = "word error rate on five clips of read speech (LibriVox)"

    def feeds(self, session: Session, setting: Setting) -> list[Feeds]:
        """For an encoder the clips; for a decoder each clip's words at once, then one more step."""
        if is_encoder(session):
            return [{"input_features": clip.mel[None]} for clip in load_clips(setting)]
        encoder, decoder = pair(session, setting)
        run = in_original(decoder)
        tokenizer = TextTokenizer(decoder.path.parent)
        feeds: list[Feeds] = []
        for clip in load_clips(setting):
            states = encode(encoder, clip.mel)
            tokens = [*PROMPT, *tokenizer.encode(" " + clip.words, special=False)]
            feeds.append(first_feeds(decoder, tokens[:-1], states))
            feeds.append(next_feeds(tokens[-1:], states, run(feeds[-1])))
        return feeds

    def score(self, session: Session, setting: Setting) -> Score:
        """Transcribe all clips; the rate is over all their words together."""
        encoder, decoder = pair(session, setting)
        tokenizer = TextTokenizer(decoder.path.parent)
        errors = words = tokens = 0
        loss = 0.0
        clips = list(load_clips(setting))
        for index, clip in enumerate(clips):
            setting.progress("transcribing", index / len(clips))
            states = encode(encoder, clip.mel)
            expected = plain_words(clip.words)
            errors += count_word_errors(
                expected, plain_words(tokenizer.decode(transcribe(decoder, states)))
            )
            words += len(expected)
            true = tokenizer.encode(" " + clip.words, special=False)
            part, count = negative_log_likelihood(decoder, states, true)
            loss, tokens = loss + part, tokens + count
        details = {"word errors": errors, "words": words, "NLL a token": loss / tokens}
        return Score("LibriVox WER", errors / words, False, len(clips), details, share=True)


def pair(session: Session, setting: Setting) -> tuple[Session, Session]:
    """The encoder and the decoder, of which ``session`` is one.

    Raises:
        UnsupportedError: the model, or its companion, is neither.
    """
    encodes = is_encoder(session)
    if not encodes and not is_decoder(session):
        raise UnsupportedError(
            f"{session.path.name} is no part of Whisper: it has the inputs "
            f"{', '.join(value.name for value in session.inputs)}",
            "choose another task",
        )
    path = setting.companion or find_model(DECODER if encodes else ENCODER, setting.progress)
    other = Session(path, threads=setting.threads, library=setting.library)
    if not (is_decoder if encodes else is_encoder)(other):
        wanted = "decoder" if encodes else "encoder"
        raise UnsupportedError(f"{path}: expected Whisper's {wanted} as the companion")
    return (session, other) if encodes else (other, session)


def load_clips(setting: Setting) -> Iterator[Clip]:
    """The clips, fetched if the cache does not hold them.

    Raises:
        BitfoldError: they cannot be fetched.
    """
    from bitfold.models.catalogue import fetch_entry
    from bitfold.models.librivox_clips import CLIPS, ENTRY, read_transcripts

    path = fetch_entry(ENTRY, setting.progress)
    words = read_transcripts(path)
    for name in CLIPS[: setting.limit]:
        yield Clip(log_mel(read_wav(path.parent / f"{name}.wav")), words[name])
