"""Sample inputs of a model of the catalogue: a few of those that its task measures it on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir

from bitfold.frontend.tasks import Setting, find_task
from bitfold.models.entry import TASK_KEY
from bitfold.passes.core.context import Feeds
from bitfold.runtime.errors import BitfoldError
from bitfold.runtime.session import Session

SAMPLES = 2
"""Inputs taken: the last ones, for measurements compare outputs on the first ones."""


def task_samples(
    model: ir.Model, path: Path, progress: Callable[[str, float], None]
) -> list[Feeds]:
    """The last inputs of the task that the model's metadata name.

    Args:
        path: the file of ``model``, an ONNX one.

    Returns:
        No samples where no task is named, or where its data cannot be had (a note to
        ``progress`` says why): the caller synthesizes some.
    """
    name = model.metadata_props.get(TASK_KEY, "")
    if not name:
        return []
    try:
        feeds = find_task(name).feeds(Session(path), Setting(progress=progress))
    except BitfoldError as error:
        progress(f"no inputs of task {name}: {error}", 0.0)
        return []
    return feeds[-SAMPLES:]
