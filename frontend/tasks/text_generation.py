"""Text generation: the perplexity of news texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from bitfold.frontend.perplexity import causal_feed, score_text
from bitfold.frontend.tasks.task import Progress, Score, Setting
from bitfold.frontend.text_tokenizer import TextTokenizer
from bitfold.passes.core.context import Feeds
from bitfold.runtime.decoder import is_language_model
from bitfold.runtime.errors import UnsupportedError
from bitfold.runtime.session import Session

CHUNK = 512
"""Tokens scored on their own, the second half of them counting."""


class TextGeneration:
    """Perplexity on the evaluation part of the Lee background corpus."""

    name = "text-generation"
    summary = "perplexity of news texts (Lee background corpus)"

    def feeds(self, session: Session, setting: Setting) -> list[Feeds]:
        """The text's chunks from an empty cache."""
        ids = _tokens(session, setting)
        chunks = [ids[i : i + CHUNK] for i in range(0, len(ids) - CHUNK + 1, CHUNK)]
        return [causal_feed(session.ort, chunk) for chunk in chunks]

    def score(self, session: Session, setting: Setting) -> Score:
        """See `score_text`; a sample is a chunk."""
        ids = _tokens(session, setting)
        tokenizer = TextTokenizer(session.path.parent)
        bos = tokenizer.bos_id if tokenizer.adds_bos else None
        counted = Counted(session, len(ids) // CHUNK, setting.progress)
        found = score_text(counted, ids, CHUNK, bos=bos)
        details = {"tokens": float(found.tokens)}
        return Score("Lee perplexity", found.perplexity, False, found.chunks, details)


def default_text(progress: Progress = lambda text, fraction: None) -> str:
    """The catalogue's evaluation text, fetched if the cache does not hold it.

    Raises:
        BitfoldError: it cannot be fetched.
    """
    from bitfold.models.catalogue import fetch_entry
    from bitfold.models.lee_background import ENTRY, EVALUATION, read_text

    return read_text(fetch_entry(ENTRY, progress), EVALUATION)


class Counted:
    """A session that tells the progress of each run."""

    def __init__(self, session: Session, total: int, progress: Progress) -> None:
        self._session = session
        self._total = max(total, 1)
        self._done = 0
        self._progress = progress

    def get_inputs(self) -> Sequence[Any]:
        """As ONNX Runtime's session."""
        inputs: Sequence[Any] = self._session.ort.get_inputs()
        return inputs

    def run(self, outputs: Iterable[str] | None, feeds: dict[str, np.ndarray]) -> Any:
        """As ONNX Runtime's session, with bitfold's errors."""
        self._progress("scoring", self._done / self._total)
        self._done += 1
        names = None if outputs is None else list(outputs)
        return list(self._session.run(feeds, names).values())


def _tokens(session: Session, setting: Setting) -> np.ndarray:
    """As many tokens of the text as the setting allows, i64[n]."""
    if not is_language_model(session):
        raise UnsupportedError(
            f"{session.path.name} is no language model: it has the inputs "
            f"{', '.join(value.name for value in session.inputs)}",
            "choose another task",
        )
    ids = TextTokenizer(session.path.parent).encode(default_text(setting.progress), special=False)
    kept = len(ids) if setting.limit is None else max(setting.limit, 1) * CHUNK
    return np.asarray(ids[:kept], np.int64)
