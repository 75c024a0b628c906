"""Similarity: how well distances of embeddings agree with people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import stats

from bitfold.frontend.tasks.task import Progress, Score, Setting
from bitfold.frontend.text_tokenizer import TextTokenizer
from bitfold.passes.core.context import Feeds
from bitfold.runtime.errors import UnsupportedError
from bitfold.runtime.session import Session

OUTPUT = "sentence_embedding"
BATCH = 32
"""Texts embedded at once."""
_INPUTS = {"input_ids", "attention_mask", "token_type_ids"}


class Similarity:
    """Rank correlation with people on word pairs, and linear correlation on news texts."""

    name = "similarity"
    summary = "agreement with people on similar words and texts (WordSim353, SimLex999, Lee)"

    def feeds(self, session: Session, setting: Setting) -> list[Feeds]:
        """News texts and rated words in turn, one at a time: nothing is padded."""
        from bitfold.models.word_similarity import read_documents, read_pairs

        path = _fetch(setting.progress)
        texts, _ = read_documents(path)
        words = [first for first, _, _ in read_pairs(path)]
        mixed = [text for both in zip(texts, words, strict=False) for text in both]
        encoder = TextEncoder(session)
        return [encoder.feeds([text]) for text in mixed[: setting.limit]]

    def score(self, session: Session, setting: Setting) -> Score:
        """The figure is Spearman's coefficient on WordSim353; SimLex999's and Lee's beside it."""
        from bitfold.models.word_similarity import PAIRS, read_documents, read_pairs

        path = _fetch(setting.progress)
        encoder = TextEncoder(session)
        rho, count = {}, 0
        for index, (name, file) in enumerate(PAIRS.items()):
            pairs = read_pairs(path.parent / file)[: setting.limit]
            count = count or len(pairs)
            setting.progress(f"embedding {name}", index / 3)
            first = encoder.embed([pair[0] for pair in pairs])
            second = encoder.embed([pair[1] for pair in pairs])
            rho[name] = spearman((first * second).sum(-1), [pair[2] for pair in pairs])
        setting.progress("embedding Lee", 2 / 3)
        texts, ratings = read_documents(path)
        embedded = encoder.embed(texts)
        above = np.triu_indices(len(texts), 1)
        details = {
            "SimLex999 Spearman": rho["SimLex999"],
            "Lee Pearson": pearson((embedded @ embedded.T)[above], ratings[above]),
        }
        return Score("WordSim353 Spearman", rho["WordSim353"], True, count, details)


class TextEncoder:
    """Texts to embeddings by a model with its tokenizer beside it.

    Args:
        session: a model with the output `sentence_embedding` f32[batch, dim], of length 1.

    Raises:
        UnsupportedError: the model has other inputs or no such output.
        ModelError: there is no tokenizer beside it.
    """

    def __init__(self, session: Session) -> None:
        names = {value.name for value in session.inputs}
        if not {"input_ids"} <= names <= _INPUTS or OUTPUT not in {
            value.name for value in session.outputs
        }:
            raise UnsupportedError(
                f"{session.path.name} embeds no texts: expected inputs among {sorted(_INPUTS)} and "
                f"the output {OUTPUT}, found {sorted(names)} and "
                f"{', '.join(value.name for value in session.outputs)}",
                "choose another task",
            )
        self._session = session
        self._names = names
        self._tokenizer = TextTokenizer(session.path.parent)

    def feeds(self, texts: Sequence[str]) -> Feeds:
        """Feeds of a batch; shorter texts are padded on the right, and the padding masked."""
        rows = [self._tokenizer.encode(text) for text in texts]
        ids = np.zeros((len(rows), max(map(len, rows))), np.int64)
        keep = np.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row)], keep[i, : len(row)] = row, 1
        given = {"input_ids": ids, "attention_mask": keep, "token_type_ids": np.zeros_like(ids)}
        return {name: given[name] for name in given if name in self._names}

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """The embeddings f32[len(texts), dim]."""
        batches = [texts[i : i + BATCH] for i in range(0, len(texts), BATCH)]
        found = [self._session.run(self.feeds(batch), [OUTPUT])[OUTPUT] for batch in batches]
        return np.concatenate(found)


def spearman(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> float:
    """The correlation of ranks, equal values sharing their mean rank."""
    return float(stats.spearmanr(a, b).statistic)


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    """The linear correlation."""
    return float(stats.pearsonr(a, b).statistic)


def _fetch(progress: Progress) -> Path:
    from bitfold.models.catalogue import fetch_entry
    from bitfold.models.word_similarity import ENTRY

    return fetch_entry(ENTRY, progress)
