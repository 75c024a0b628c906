"""Sample inputs that a model gets where the user gives none: such as it is meant for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import onnx_ir as ir

from bitfold.frontend.importers.tokenizer import TOKENIZER
from bitfold.frontend.task_samples import task_samples
from bitfold.frontend.text_samples import text_samples
from bitfold.models.entry import TASK_KEY
from bitfold.passes.core.context import Feeds


def real_samples(
    model: ir.Model, path: Path, progress: Callable[[str, float], None]
) -> tuple[Sequence[Feeds], str]:
    """A text for a language model, or inputs of the task that a model of the catalogue names.

    Args:
        path: the file that ``model`` was read from; a tokenizer lies beside it.

    Returns:
        The samples, none where there is neither, and where they come from.
    """
    tokenizer = path.parent / TOKENIZER
    found = text_samples(model, tokenizer, progress=progress) if tokenizer.is_file() else []
    if found:
        return found, "text"
    if path.suffix != ".onnx":
        return [], ""
    return task_samples(model, path, progress), f"task {model.metadata_props.get(TASK_KEY, '')}"
