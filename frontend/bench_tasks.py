"""What a benchmark times in a round: a language model's prompt and steps, or any model's run."""

from __future__ import annotations

import contextlib
import statistics
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from bitfold.frontend.bench_process import BenchProcess
from bitfold.frontend.importers import import_model
from bitfold.frontend.importers.tokenizer import TOKENIZER
from bitfold.frontend.text_tokenizer import TextTokenizer
from bitfold.models.trained import eval_text
from bitfold.passes.core.compare import compare_outputs
from bitfold.passes.core.context import Context
from bitfold.passes.core.report import Divergence
from bitfold.passes.core.sample_sizes import Sizes
from bitfold.passes.core.samples import prepare_samples, synthesize
from bitfold.runtime.errors import UnsupportedError
from bitfold.runtime.execution import open_session

ROUND_SECONDS = 0.3
"""How long a round repeats a prompt, or a run of a model that is no language model."""
CHECKED_TOKENS = 128
"""Tokens at which the logits of two language models are compared."""


@dataclass
class ModelTimes:
    """One model's figures: medians over rounds.

    Attributes:
        bytes: size of the file and of its external data.
        load_seconds: time to open a session, the file's pages being in memory.
        idle_bytes: resident memory of the process before loading (Python and ORT).
        peak_bytes: the same at its peak; mapped weights count once they are read.
        prefill_tps: tokens a second when a prompt is taken at once.
        decode_tps: tokens a second one at a time.
        latency_ms: one decode step, or one run of a model that is no language model.
        library: whether bitfold's op library was in use.
        cache: how the key/value cache was carried; see `CacheMode`.
        cache_error: the last logits after single steps against those of one step over the same
            tokens, relative to the largest.
        rounds: the figures of each round.
    """

    model: str
    bytes: int
    load_seconds: float = 0.0
    idle_bytes: int = 0
    peak_bytes: int = 0
    prefill_tps: float | None = None
    decode_tps: float | None = None
    latency_ms: float | None = None
    library: bool = False
    cache: str | None = None
    cache_error: float | None = None
    rounds: dict[str, list[float]] = field(default_factory=dict)

    def add(self, key: str, value: float) -> None:
        """Record a round's figure."""
        self.rounds.setdefault(key, []).append(value)

    def summarize(self) -> None:
        """Set each figure to the median of its rounds."""
        for key, values in self.rounds.items():
            setattr(self, key, statistics.median(values))


class Task(ABC):
    """What is measured in a round."""

    kind: ClassVar[str]

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What was chosen, for the report."""

    @abstractmethod
    def measure(self, worker: BenchProcess, figures: ModelTimes, counted: bool) -> None:
        """Measure one model once, and record it if it counts."""

    @abstractmethod
    def check(self, workers: list[BenchProcess], times: list[ModelTimes]) -> Divergence | None:
        """Compare the models' outputs on what was timed; None for a single model."""


class TextTask(Task):
    """A prompt at once, then tokens one at a time."""

    kind = "language-model"

    def __init__(
        self,
        tokens: list[int],
        source: str,
        prefill: int,
        decode: int,
        context: int,
        folder: Path,
    ) -> None:
        self._source = source
        self._prompt = tokens[:prefill]
        self._steps = tokens[: context + decode]
        self._context = context
        self._folder = folder

    def settings(self) -> dict[str, Any]:
        decode = len(self._steps) - self._context
        return {
            "prefill": len(self._prompt),
            "decode": decode,
            "context": self._context,
            "tokens": self._source,
        }

    def measure(self, worker: BenchProcess, figures: ModelTimes, counted: bool) -> None:
        prefill = worker.call("prefill", tokens=self._prompt, seconds=ROUND_SECONDS)
        steps = worker.call("decode", tokens=self._steps, context=self._context)
        if counted:
            figures.add("prefill_tps", len(self._prompt) / statistics.median(prefill))
            figures.add("decode_tps", len(steps) / sum(steps))
            figures.add("latency_ms", statistics.median(steps) * 1e3)

    def check(self, workers: list[BenchProcess], times: list[ModelTimes]) -> Divergence | None:
        files = []
        for index, (worker, figures) in enumerate(zip(workers, times, strict=True)):
            files.append(self._folder / f"{index}.npz")
            tokens = self._prompt[:CHECKED_TOKENS]
            figures.cache_error = worker.call("logits", tokens=tokens, file=str(files[-1]))
        return _divergence(files)


class ForwardTask(Task):
    """Runs on one set of inputs."""

    kind = "forward"

    def __init__(
        self, path: Path, feeds: Mapping[str, np.ndarray] | None, seed: int, folder: Path
    ) -> None:
        arrays = dict(feeds) if feeds is not None else synthesized_feeds(path, seed)
        self._shapes = {name: list(array.shape) for name, array in arrays.items()}
        self._folder = folder
        self._feeds = str(folder / "feeds.npz")
        np.savez(self._feeds, **arrays)  # type: ignore[arg-type]

    def settings(self) -> dict[str, Any]:
        return {"inputs": self._shapes}

    def measure(self, worker: BenchProcess, figures: ModelTimes, counted: bool) -> None:
        seconds = worker.call("forward", feeds=self._feeds, seconds=ROUND_SECONDS)
        if counted:
            figures.add("latency_ms", statistics.median(seconds) * 1e3)

    def check(self, workers: list[BenchProcess], times: list[ModelTimes]) -> Divergence | None:
        files = []
        for index, worker in enumerate(workers):
            files.append(self._folder / f"{index}.npz")
            worker.call("outputs", feeds=self._feeds, file=str(files[-1]))
        return _divergence(files)


def synthesized_feeds(path: Path, seed: int) -> dict[str, np.ndarray]:
    """One set of inputs that the model takes, made up from its graph.

    Raises:
        CalibrationError: none of those tried runs.
    """
    model = import_model(path)
    with Context(seed=seed) as context:
        return dict(prepare_samples(model, context, open_session(model, optimize=False).run)[0])


def text_tokens(
    paths: list[Path], tokens: Sequence[int] | None, length: int, seed: int
) -> tuple[list[int], str]:
    """``length`` tokens and where they are from: ``given``, ``text`` or ``random``.

    Text, where the first model has a tokenizer, is what comes with bitfold; tokens that are
    too few are repeated.
    """
    source = "given" if tokens else "text"
    if not tokens and (paths[0].parent / TOKENIZER).is_file():
        with contextlib.suppress(UnsupportedError):  # no tokenizers package
            tokens = TextTokenizer(paths[0].parent).encode(eval_text())
    if tokens:
        repeated = list(tokens) * -(-length // len(tokens))
        return [int(token) for token in repeated[:length]], source
    # The draw with the smallest largest token fits both vocabularies.
    draws = [
        synthesize(import_model(path).graph, Sizes(1, length, 0), np.random.default_rng(seed))
        for path in paths
    ]
    ids = min((draw["input_ids"].ravel() for draw in draws), key=lambda draw: int(draw.max()))
    return [int(token) for token in ids], "random"


def _divergence(files: list[Path]) -> Divergence | None:
    if len(files) < 2:
        return None
    with np.load(files[0]) as candidate, np.load(files[1]) as reference:
        return compare_outputs([(dict(reference), dict(candidate))])
