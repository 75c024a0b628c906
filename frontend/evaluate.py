"""Measure a model's quality: on a text for language models, on given inputs for the others."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bitfold.frontend.importers import import_model
from bitfold.frontend.perplexity import TextScore, score_text
from bitfold.frontend.text_tokenizer import TextTokenizer
from bitfold.passes.core.compare import compare_outputs
from bitfold.passes.core.context import Context, Feeds
from bitfold.passes.core.report import Divergence
from bitfold.passes.core.samples import prepare_samples
from bitfold.runtime.decoder import is_language_model
from bitfold.runtime.errors import BitfoldError, CalibrationError, VerificationError
from bitfold.runtime.session import Session

Progress = Callable[[str, float], None]


@dataclass
class EvalResult:
    """What was measured.

    Attributes:
        kind: ``text`` or ``outputs``.
        score: a language model's score on the text.
        outputs: for other models, how far each output is from the reference's.
        settings: the text or inputs that were used, and how.
    """

    kind: str
    model: str
    reference: str | None
    settings: dict[str, Any]
    score: TextScore | None = None
    outputs: dict[str, Divergence] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return asdict(self)


def evaluate(
    model: str | os.PathLike[str],
    reference: str | os.PathLike[str] | None = None,
    *,
    text: str | None = None,
    chunk: int = 512,
    chunks: int | None = None,
    feeds: Sequence[Feeds] = (),
    threads: int | None = None,
    library: bool = True,
    seed: int = 0,
    progress: Progress = lambda text, fraction: None,
) -> EvalResult:
    """Measure a model, alone or against a reference.

    A language model gets the perplexity of a text, and against a reference the mean KL and the
    share of positions with the same most likely token; see `score_text`.  Any other model needs
    a reference, and gets SQNR, cosine, largest error and top-1 of each output.

    Args:
        model: an ONNX file.
        reference: the float model, say.
        text: what to score on; by default the catalogue's evaluation text.
        chunk: length in tokens of the pieces that are scored on their own.
        chunks: how many of them, from the start; None for all.
        feeds: inputs for a model that is no language model; synthesized where there are none.
        threads: threads inside an operator.
        library: use bitfold's op library.

    Raises:
        CalibrationError: the text is too short, or the inputs do not fit.
        VerificationError: the reference has other outputs.
        BitfoldError: a model cannot be loaded or run, or the default text not be fetched.
    """
    progress("loading", 0.0)
    session = Session(model, threads=threads, library=library)
    other = Session(reference, threads=threads, library=library) if reference is not None else None
    names = (str(model), None if reference is None else str(reference))
    if is_language_model(session) and not feeds:
        tokenizer = TextTokenizer(Path(model).parent)
        source = "given" if text is not None else "lee-background, bytes 200001-245000"
        score, settings = _score(
            session, other, tokenizer, default_text(progress) if text is None else text,
            chunk, chunks, progress,
        )  # fmt: skip
        return EvalResult("text", *names, {"text": source, **settings}, score=score)
    if other is None:
        raise CalibrationError(
            f"{session.path.name} is no language model: its outputs need a reference to compare",
            "pass the float model as the reference",
        )
    samples = list(feeds) or _synthesized(Path(reference or model), other, seed)
    outputs = compare_each(session, other, samples, progress)
    settings = {"inputs": "given" if feeds else "synthesized", "samples": len(samples)}
    return EvalResult("outputs", *names, settings, outputs=outputs)


def default_text(progress: Progress = lambda text, fraction: None) -> str:
    """The catalogue's evaluation text, fetched if the cache does not hold it.

    Raises:
        BitfoldError: it cannot be fetched.
    """
    from bitfold.models.catalogue import fetch_entry
    from bitfold.models.lee_background import ENTRY, EVALUATION, read_text

    try:
        return read_text(fetch_entry(ENTRY, progress), EVALUATION)
    except BitfoldError as error:
        raise type(error)(str(error), "name a text of your own with --text FILE") from error


def compare_each(
    session: Session,
    reference: Session,
    samples: Sequence[Feeds],
    progress: Progress = lambda text, fraction: None,
) -> dict[str, Divergence]:
    """How far each of the reference's outputs is off in ``session``, over all samples.

    Raises:
        VerificationError: an output is missing.
    """
    names = [value.name for value in reference.outputs]
    missing = set(names) - {value.name for value in session.outputs}
    if missing:
        raise VerificationError(
            f"{session.path.name}: expected outputs {names}, found no {missing}"
        )
    pairs = []
    for index, feeds in enumerate(samples):
        progress("comparing", index / len(samples))
        pairs.append((reference.run(feeds), session.run(feeds, names)))
    return {
        name: compare_outputs([({name: a[name]}, {name: b[name]}) for a, b in pairs])
        for name in names
    }


def _score(
    session: Session,
    reference: Session | None,
    tokenizer: TextTokenizer,
    text: str,
    chunk: int,
    chunks: int | None,
    progress: Progress,
) -> tuple[TextScore, dict[str, Any]]:
    ids = tokenizer.encode(text, special=False)
    available = len(ids) // max(chunk, 1)
    used = available if chunks is None else min(chunks, available)
    if chunks is not None:
        ids = ids[: max(used, 1) * chunk]
    score = score_text(
        _Counted(session, used, progress),
        ids,
        chunk,
        reference=None if reference is None else reference.ort,
        bos=tokenizer.bos_id if tokenizer.adds_bos else None,
    )
    return score, {"chunk": chunk, "chunks": score.chunks, "of_chunks": available}


class _Counted:
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


def _synthesized(path: Path, session: Session, seed: int) -> list[Feeds]:
    with Context(seed=seed) as context:
        return list(prepare_samples(import_model(path), context, session.run))
