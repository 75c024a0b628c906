"""Measuring the catalogue's models by their tasks, all of one or, in the short form, a few samples.

The environment's BITFOLD_SHORT asks for the short form.
"""

from __future__ import annotations

import os
from pathlib import Path

from bitfold.frontend.evaluate import evaluate
from bitfold.frontend.tasks.measure import TaskResult

SHORT = bool(os.environ.get("BITFOLD_SHORT"))

LIMITS = {
    "all-minilm-l6-v2": 40,
    "whisper-tiny.en-encoder": 2,
    "whisper-tiny.en-decoder": 2,
    "efficientnet-lite0": 8,
    "ppocr-rec": 24,
    "magika": 12,
}
"""Samples of each model's task in the short form."""


def measured(
    model: Path, reference: Path | None, name: str, limit: int | None = None
) -> TaskResult:
    """What a model of the catalogue, or one converted from it, scores on its task."""
    limit = limit or (LIMITS[name] if SHORT else None)
    found = evaluate(model, reference, limit=limit).task
    assert found is not None
    return found
