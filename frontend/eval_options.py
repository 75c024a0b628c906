"""Which options of an evaluation apply to what: one that does not is refused, never ignored."""

from __future__ import annotations

from typing import Any, Literal

from bitfold.frontend.tasks import WITH_COMPANION
from bitfold.runtime.errors import UnsupportedError

Kind = Literal["text", "outputs", "task"]

TEXT_OPTIONS = ("text", "chunk", "chunks")
TASK_OPTIONS = ("limit", "companion")


class UnusedOptionError(UnsupportedError):
    """An option that the evaluation would not use.

    Attributes:
        option: its name.
        reason: why not.
    """

    def __init__(self, option: str, reason: str) -> None:
        super().__init__(f"{option}: {reason}", "leave it out")
        self.option = option
        self.reason = reason


def check_options(kind: Kind, task: str | None, options: dict[str, Any]) -> None:
    """Refuse the options that an evaluation of this kind does not use.

    Args:
        kind: a language model's score on a ``text``, a ``task``, or a comparison of ``outputs``.
        task: the task's name.
        options: by name, what the caller gave; None or an empty sequence for what was not given.

    Raises:
        UnusedOptionError: the first that does not apply.
    """
    given = [name for name, value in options.items() if value is not None and value != ()]
    for name in given:
        reason = _why_unused(name, kind, task, "feeds" in given)
        if reason:
            raise UnusedOptionError(name, reason)


def _why_unused(option: str, kind: Kind, task: str | None, inputs: bool) -> str:
    """Why an option does not apply, or an empty string."""
    if option == "feeds" and kind == "task":
        return f"the task {task} brings inputs of its own"
    if option in TEXT_OPTIONS and kind == "task":
        return f"the task {task} has its own data; texts are for language models without a task"
    if option in TEXT_OPTIONS and kind == "outputs":
        return "outputs are compared on the inputs given" if inputs else _NO_LANGUAGE_MODEL
    if option in TASK_OPTIONS and kind == "text":
        return "no task is measured: a language model is scored on a text" + (
            ", of which chunks takes a part" if option == "limit" else ""
        )
    if option in TASK_OPTIONS and kind == "outputs":
        return "no task is measured: outputs are compared on " + (
            "the inputs given" if inputs else "made-up inputs"
        )
    if option == "companion" and task not in WITH_COMPANION:
        return f"the task {task} is of models in one part"
    return ""


_NO_LANGUAGE_MODEL = "the model is no language model"
