"""Measure a model's quality: on a text for language models, on given inputs for the others."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bitfold.frontend.eval_options import Kind, check_options
from bitfold.frontend.importers import import_model
from bitfold.frontend.perplexity import TextScore, score_text
from bitfold.frontend.tasks import Setting, find_task, task_of
from bitfold.frontend.tasks.measure import TaskResult, compare_each, measure
from bitfold.frontend.tasks.text_generation import CHUNK, Counted
from bitfold.frontend.tasks.text_generation import default_text as catalogue_text
from bitfold.frontend.text_tokenizer import TextTokenizer
from bitfold.passes.core.context import Context, Feeds
from bitfold.passes.core.report import Divergence
from bitfold.passes.core.samples import prepare_samples
from bitfold.runtime.decoder import is_language_model
from bitfold.runtime.errors import BitfoldError, CalibrationError
from bitfold.runtime.session import Session

Progress = Callable[[str, float], None]


@dataclass
class EvalResult:
    """What was measured.

    Attributes:
        kind: ``text``, ``outputs`` or ``task``.
        score: a language model's score on the text.
        outputs: for other models, how far each output is from the reference's.
        task: a task's score.
        settings: the text or inputs that were used, and how.
    """

    kind: str
    model: str
    reference: str | None
    settings: dict[str, Any]
    score: TextScore | None = None
    outputs: dict[str, Divergence] = field(default_factory=dict)
    task: TaskResult | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return asdict(self)


def evaluate(
    model: str | os.PathLike[str],
    reference: str | os.PathLike[str] | None = None,
    *,
    text: str | None = None,
    chunk: int | None = None,
    chunks: int | None = None,
    feeds: Sequence[Feeds] = (),
    task: str | None = None,
    limit: int | None = None,
    companion: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    library: bool = True,
    seed: int = 0,
    progress: Progress = lambda text, fraction: None,
) -> EvalResult:
    """Measure a model, alone or against a reference.

    A language model gets the perplexity of a text, and against a reference the mean KL and the
    share of positions with the same most likely token; see `score_text`.  Any other model needs
    a reference, and gets SQNR, cosine and largest error of each output, and top-1 of logits and
    probabilities.  A model that
    names a task in its metadata, as the catalogue's do, is measured by it, unless inputs are
    given: see `bitfold.frontend.tasks`.

    Args:
        model: an ONNX file.
        reference: the float model, say.
        text: what to score on; by default the catalogue's evaluation text.
        chunk: length in tokens of the pieces that are scored on their own; `CHUNK` by default.
        chunks: how many of them, from the start; None for all.
        feeds: inputs for a model that is no language model; synthesized where there are none.
        task: measure by this task, whatever the model's metadata name.
        limit: samples of a task's data set, at most.
        companion: for tasks of a model in two parts, the other part; by default the catalogue's.
        threads: threads inside an operator.
        library: use bitfold's op library.

    Raises:
        UnusedOptionError: something was given that this evaluation does not use.
        UnsupportedError: there is no such task.
        CalibrationError: the text is too short, or the inputs do not fit.
        VerificationError: the reference has other outputs.
        BitfoldError: a model cannot be loaded or run, or the default text not be fetched.
    """
    options: dict[str, Any] = {
        "feeds": tuple(feeds),
        "text": text,
        "chunk": chunk,
        "chunks": chunks,
    }
    options |= {"limit": limit, "companion": companion}
    kind: Kind | None = "task" if task is not None else "outputs" if feeds else None
    if kind is not None:
        check_options(kind, task, options)
    progress("loading", 0.0)
    for each in (model, reference):
        if each is not None:
            import_model(each)  # what is wrong with a file it says better than ORT
    session = Session(model, threads=threads, library=library)
    other = Session(reference, threads=threads, library=library) if reference is not None else None
    names = (str(model), None if reference is None else str(reference))
    if kind is None:
        kind, task = _kind_of(session)
        check_options(kind, task, options)
    if task is not None:
        chosen = find_task(task)
        half = None if companion is None else Path(companion)
        setting = Setting(limit, half, threads, library, progress)
        measured = measure(chosen, session, other, setting)
        return EvalResult("task", *names, {"task": task, "limit": limit}, task=measured)
    if kind == "text":
        tokenizer = TextTokenizer(Path(model).parent)
        source = "given" if text is not None else "lee-background, bytes 200001-245000"
        score, settings = _score(
            session, other, tokenizer, default_text(progress) if text is None else text,
            CHUNK if chunk is None else chunk, chunks, progress,
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


def _kind_of(session: Session) -> tuple[Kind, str | None]:
    """What a model is measured by where the caller does not say, and the task's name."""
    if is_language_model(session):
        return "text", None
    task = task_of(session) or None
    return "outputs" if task is None else "task", task


def default_text(progress: Progress = lambda text, fraction: None) -> str:
    """The catalogue's evaluation text; the error says how to do without it."""
    try:
        return catalogue_text(progress)
    except BitfoldError as error:
        raise type(error)(str(error), "name a text of your own with --text FILE") from error


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
        Counted(session, used, progress),
        ids,
        chunk,
        reference=None if reference is None else reference.ort,
        bos=tokenizer.bos_id if tokenizer.adds_bos else None,
    )
    return score, {"chunk": chunk, "chunks": score.chunks, "of_chunks": available}


def _synthesized(path: Path, session: Session, seed: int) -> list[Feeds]:
    with Context(seed=seed) as context:
        return list(prepare_samples(import_model(path), context, session.run))
