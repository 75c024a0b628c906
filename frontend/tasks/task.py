"""What an evaluation task is: real inputs for a model, and one figure for how well it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from bitfold.models.entry import TASK_KEY
from bitfold.passes.core.context import Feeds
from bitfold.runtime.session import Session

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Score:
    """How well a model does a task.

    Attributes:
        metric: what was measured, with its data set: ``WordSim353 Spearman``.
        value: the figure.
        higher_is_better: whether a greater figure is the better one.
        samples: how many samples it was measured on.
        details: further figures by name, for people to read.
        share: whether the figure is a share of 1, which people read as a percentage.
    """

    metric: str
    value: float
    higher_is_better: bool
    samples: int
    details: dict[str, float] = field(default_factory=dict)
    share: bool = False


@dataclass(frozen=True)
class Setting:
    """How a task is run.

    Attributes:
        limit: samples of the data set to use at most, from its start; None for all.
        companion: the file of the other half of a model in two parts (an encoder and a decoder);
            None for the catalogue's float one.
        threads: threads inside an operator, for sessions that the task opens itself.
        library: whether such sessions use bitfold's op library.
        progress: called with a text and the share that is done, 0…1.
    """

    limit: int | None = None
    companion: Path | None = None
    threads: int | None = None
    library: bool = True
    progress: Progress = lambda text, fraction: None


class Task(Protocol):
    """One way to measure a model; a catalogue entry names its task, and so do its files.

    What a task needs beside the session it finds in the model's folder (``session.path.parent``:
    the tokenizer), in its metadata, or fetches from the catalogue. Packages of the extra
    ``models`` are imported where they are used.
    """

    @property
    def name(self) -> str:
        """How the user names it: ``similarity``."""

    @property
    def summary(self) -> str:
        """One line for lists."""

    def feeds(self, session: Session, setting: Setting) -> list[Feeds]:
        """Real inputs of the model, to compare its outputs with another model's on.

        Caches among them are in the original coordinates, whatever the model's own are.

        Raises:
            BitfoldError: the model has not the inputs that the task feeds, or its data cannot be
                fetched.
        """

    def score(self, session: Session, setting: Setting) -> Score:
        """Measure the model.

        Raises:
            BitfoldError: as for `feeds`.
        """


def task_of(session: Session) -> str:
    """The name of the task in a model's metadata; empty where it has none."""
    return session.metadata.get(TASK_KEY, "")
