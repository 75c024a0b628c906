"""Ways to measure real models by what they are for: one file a task, and this list."""

from __future__ import annotations

from bitfold.frontend.tasks.classification import Classification
from bitfold.frontend.tasks.file_type import FileType
from bitfold.frontend.tasks.ocr import Ocr
from bitfold.frontend.tasks.similarity import Similarity
from bitfold.frontend.tasks.task import Score, Setting, Task, task_of
from bitfold.frontend.tasks.text_generation import TextGeneration
from bitfold.frontend.tasks.transcription import Transcription
from bitfold.runtime.errors import UnsupportedError

__all__ = ["TASKS", "WITH_COMPANION", "Score", "Setting", "Task", "find_task", "task_of"]

TASKS: tuple[Task, ...] = (
    TextGeneration(),
    Similarity(),
    Transcription(),
    Classification(),
    Ocr(),
    FileType(),
)

WITH_COMPANION = (Transcription.name,)
"""Tasks of models in two parts, which take the other part."""


def find_task(name: str) -> Task:
    """The task of a name.

    Raises:
        UnsupportedError: there is none.
    """
    for task in TASKS:
        if task.name == name:
            return task
    known = ", ".join(task.name for task in TASKS)
    raise UnsupportedError(f"there is no task {name!r}", f"there are: {known}")
