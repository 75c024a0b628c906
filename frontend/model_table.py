"""Every model of the catalogue, converted every way and measured by its task: one table."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from bitfold.frontend.bench import model_bytes
from bitfold.frontend.convert import convert
from bitfold.frontend.recipes import resolve_recipe
from bitfold.frontend.sources import find_model
from bitfold.frontend.tasks import Score, Setting, Task, find_task, task_of
from bitfold.frontend.tasks.measure import INPUTS, compare_each
from bitfold.models.catalogue import MODELS
from bitfold.passes.core.context import Feeds
from bitfold.runtime.errors import BitfoldError, UnsupportedError
from bitfold.runtime.session import Session

PRESETS = ("w8a8", "w4a8")
TARGETS = ("native", "ort", "portable")
ROUNDS = 5
"""Times that each model is run for its speed, in turns with the float one."""

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Row:
    """One model, converted one way.

    Attributes:
        preset: the recipe; ``float`` for the model as it is.
        size: bytes of its files.
        metric: what the task measures.
        value: the figure; None where something failed.
        share: whether that is a share of 1.
        cosine: mean cosine to the float model's first output (logits, hidden states) on the task's
            inputs; caches that a model hands on are not what it is asked for.
        speed: time of the float model over this one's, on one of the task's inputs.
        error: why there are no figures; empty if there are.
    """

    model: str
    preset: str
    target: str
    size: int = 0
    metric: str = ""
    value: float | None = None
    share: bool = False
    cosine: float | None = None
    speed: float | None = None
    error: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return asdict(self)


def model_table(
    names: Sequence[str] = (),
    *,
    presets: Sequence[str] = PRESETS,
    targets: Sequence[str] = TARGETS,
    limit: int | None = None,
    threads: int | None = None,
    progress: Progress = lambda text, fraction: None,
) -> Iterator[Row]:
    """Convert and measure models of the catalogue; rows come as they are done.

    The first row of each model is the float one.  A conversion that is refused, or a result that
    cannot be measured, makes a row with the reason.

    Args:
        names: which models; all of them by default.
        limit: samples of each task's data, at most.
        threads: threads inside an operator.

    Raises:
        UnsupportedError: the catalogue has no such model.
        RecipeError: there is no such preset or target.
        BitfoldError: a float model cannot be fetched or run.
    """
    known = {entry.name: entry for entry in MODELS}
    for name in names:
        if name not in known:
            raise UnsupportedError(
                f"the catalogue has no model {name!r}", f"it has: {', '.join(known)}"
            )
    for preset in presets:
        for target in targets:
            resolve_recipe(preset=preset, target=target)
    setting = Setting(limit, threads=threads, progress=progress)
    for name in names or known:
        path = find_model(name, progress)
        base = _Base(name, path, setting)
        yield base.row
        for preset in presets:
            for target in targets:
                yield _converted(base, preset, target, setting)


class _Base:
    """A float model with what others are compared to: its score, inputs and row."""

    def __init__(self, name: str, path: Path, setting: Setting) -> None:
        self.name, self.path = name, path
        self.session = Session(path, threads=setting.threads)
        self.task: Task = find_task(task_of(self.session))
        self.score: Score = self.task.score(self.session, setting)
        self.feeds: list[Feeds] = self.task.feeds(self.session, setting)[:INPUTS]
        size = model_bytes(path)
        score = self.score
        self.row = Row(
            name, "float", "", size, score.metric, score.value, score.share, cosine=1.0, speed=1.0
        )


def _converted(base: _Base, preset: str, target: str, setting: Setting) -> Row:
    with TemporaryDirectory(prefix="bitfold-") as folder:
        path = Path(folder) / "model.onnx"
        try:
            convert(base.path, path, preset=preset, target=target, progress=setting.progress)
            session = Session(path, threads=setting.threads, library=target == "native")
            score = base.task.score(session, setting)
            outputs = compare_each(session, base.session, base.feeds, setting.progress)
        except BitfoldError as error:
            return Row(base.name, preset, target, error=str(error))
        return Row(
            base.name,
            preset,
            target,
            model_bytes(path),
            score.metric,
            score.value,
            score.share,
            outputs[base.session.outputs[0].name].cosine,
            _speed(session, base.session, base.feeds[0]),
        )


def _speed(session: Session, reference: Session, feeds: Feeds) -> float:
    """How many times faster ``session`` is: the median over rounds of both in turns."""
    ratios = []
    for done in range(-1, ROUNDS):
        times = []
        for each in (reference, session):
            start = time.perf_counter()
            each.run(feeds)
            times.append(time.perf_counter() - start)
        if done >= 0:  # the first round warms up
            ratios.append(times[0] / times[1])
    return median(ratios)
