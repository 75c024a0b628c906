"""Time models: prefill and decode tokens a second, latency, load time and peak memory.

Each model runs in a process of its own.  Two models take turns in one run, first one first, then
the other first, so that noise hits both; figures are medians over rounds, and what is compared
is always of the same run.  The timed outputs are checked, and the divergence of the two models on
the same inputs is reported with their speed.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bitfold.frontend.bench_process import BenchProcess
from bitfold.frontend.bench_tasks import ForwardTask, ModelTimes, Task, TextTask, text_tokens
from bitfold.frontend.importers import import_model
from bitfold.frontend.machine import describe_machine
from bitfold.passes.core.report import Divergence
from bitfold.runtime.errors import UnsupportedError

Progress = Callable[[str, float], None]

MORE_LOADS = 2
"""How often each model is loaded again, after its peak memory was read."""


@dataclass
class BenchResult:
    """What a benchmark measured.

    Attributes:
        kind: ``language-model`` or ``forward``.
        ratios: the first model's figures over the second's, median of the rounds' ratios
            (of load times, the ratio of the medians): above 1 for speeds and below 1 for load
            time, memory and size is better.
        divergence: how far the first model's outputs are from the second's, on the inputs
            that were timed.
    """

    kind: str
    settings: dict[str, Any]
    machine: dict[str, Any]
    models: list[ModelTimes]
    ratios: dict[str, float] | None = None
    divergence: Divergence | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return asdict(self)


def bench(
    path: str | os.PathLike[str],
    vs: str | os.PathLike[str] | None = None,
    *,
    threads: int = 2,
    prefill: int = 512,
    decode: int = 64,
    context: int = 0,
    rounds: int = 5,
    tokens: Sequence[int] | None = None,
    feeds: Mapping[str, np.ndarray] | None = None,
    library: bool = True,
    seed: int = 0,
    progress: Progress = lambda text, fraction: None,
) -> BenchResult:
    """Time a model, and another one in turns with it.

    Args:
        path: an ONNX file.
        vs: another one, with the same inputs.
        threads: threads inside an operator.
        prefill: tokens of the prompt that is taken at once.
        decode: tokens that are then taken one at a time.
        context: tokens in the cache before the first of those.
        rounds: how many times each is measured, after one round that is not counted.
        tokens: the text to run on; by default one that comes with bitfold, or random tokens
            where the first model has no tokenizer beside it.
        feeds: inputs for a model that is no language model; synthesized where there are none.
        library: use bitfold's op library.

    Raises:
        VerificationError: an output was not finite.
        BitfoldError: a model cannot be loaded or run.
    """
    least = {"threads": 1, "prefill": 1, "decode": 1, "rounds": 1, "context": 0}
    given = (threads, prefill, decode, rounds, context)
    for (name, bound), value in zip(least.items(), given, strict=True):
        if value < bound:
            raise UnsupportedError(f"expected {name} of at least {bound}, found {value}")
    paths = [Path(path)] + ([Path(vs)] if vs is not None else [])
    times = [ModelTimes(str(each), model_bytes(each)) for each in paths]
    with (
        tempfile.TemporaryDirectory(prefix="bitfold-bench-") as folder,
        _processes(paths, threads, library) as workers,
    ):
        pairs = list(zip(workers, times, strict=True))
        for worker, figures in pairs:
            progress(f"loading {Path(figures.model).name}", 0.0)
            figures.add("load_seconds", worker.call("load"))
            facts = worker.call("facts")
            figures.library, figures.cache = facts["library"], facts["cache"]
        task: Task
        if all(figures.cache is not None for figures in times):
            text, source = text_tokens(paths, tokens, max(prefill, context + decode), seed)
            task = TextTask(text, source, prefill, decode, context, Path(folder))
        else:
            task = ForwardTask(paths[-1], feeds, seed, Path(folder))
        for index in range(-1, rounds):
            progress("timing", (index + 1) / (rounds + 1))
            for worker, figures in pairs if index % 2 else pairs[::-1]:
                task.measure(worker, figures, counted=index >= 0)
        for worker, figures in pairs:
            figures.idle_bytes, figures.peak_bytes = worker.call("memory")
        for worker, figures in pairs * MORE_LOADS:
            figures.add("load_seconds", worker.call("load"))
        progress("checking outputs", 0.95)
        divergence = task.check(workers, times)
    ratios = _ratios(*times) if len(times) == 2 else None
    for figures in times:
        figures.summarize()
    settings = {"threads": threads, "rounds": rounds, "seed": seed, **task.settings()}
    return BenchResult(task.kind, settings, describe_machine(), times, ratios, divergence)


@contextmanager
def _processes(paths: list[Path], threads: int, library: bool) -> Iterator[list[BenchProcess]]:
    """A process for each model; all of them end with the block."""
    workers: list[BenchProcess] = []
    try:
        for path in paths:
            workers.append(BenchProcess(path, threads, library))
        yield workers
    finally:
        for worker in workers:
            worker.close()


def model_bytes(path: str | os.PathLike[str]) -> int:
    """Size of an ONNX file with the external data files that it names.

    Raises:
        ModelError: there is no such file, or it is no ONNX model.
    """
    path = Path(path)
    model = import_model(path)
    size = path.stat().st_size
    names = {
        str(getattr(value.const_value, "location", ""))
        for value in model.graph.initializers.values()
    } - {""}
    return size + sum((path.parent / name).stat().st_size for name in sorted(names))


def _ratios(first: ModelTimes, second: ModelTimes) -> dict[str, float]:
    """First over second, a ratio a round, then the median: drift over the run cancels."""
    ratios = {
        key: statistics.median(
            a / b for a, b in zip(first.rounds[key], second.rounds[key], strict=True)
        )
        for key in first.rounds
    }
    # Loads do not take turns, so there is no drift between two of a pair to cancel.
    loads = [statistics.median(each.rounds["load_seconds"]) for each in (first, second)]
    ratios["load_seconds"] = loads[0] / loads[1]
    ratios["bytes"] = first.bytes / second.bytes
    if first.peak_bytes and second.peak_bytes:
        ratios["peak_bytes"] = first.peak_bytes / second.peak_bytes
    return ratios
