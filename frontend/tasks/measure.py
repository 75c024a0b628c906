"""Measure a model by a task, alone or beside a reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from bitfold.frontend.tasks.original import in_original
from bitfold.frontend.tasks.task import Progress, Score, Setting, Task
from bitfold.passes.core.compare import compare_outputs, is_float
from bitfold.passes.core.context import Feeds
from bitfold.passes.core.report import Divergence
from bitfold.runtime.errors import VerificationError
from bitfold.runtime.session import Session

OFF_ONE = 1e-2
"""How far probabilities may be from 1 in all: float16 rounds each of thousands."""

INPUTS = 16
"""Inputs that outputs are compared on, at most."""


@dataclass(frozen=True)
class TaskResult:
    """What was measured.

    Attributes:
        task: the task's name.
        score: how well the model does.
        reference: how well the reference does; None without one.
        inputs: on how many real inputs the outputs were compared.
        outputs: how far each output is from the reference's, over these inputs.
        cosine: of the output that is furthest off: the mean over these inputs of the cosine to
            the reference's output; None without a reference.
    """

    task: str
    score: Score
    reference: Score | None = None
    inputs: int = 0
    outputs: dict[str, Divergence] = field(default_factory=dict)
    cosine: float | None = None


def measure(
    task: Task, session: Session, reference: Session | None, setting: Setting
) -> TaskResult:
    """Measure a model, and how far its outputs on real inputs are from a reference's.

    Where inputs depend on a model, as caches do, they are the reference's: the same for whatever is
    compared with it.

    Raises:
        VerificationError: an output of the reference is missing.
        BitfoldError: see the task.
    """
    score = task.score(session, setting)
    if reference is None:
        return TaskResult(task.name, score)
    base = task.score(reference, setting)
    samples = task.feeds(reference, setting)[:INPUTS]
    outputs = compare_each(session, reference, samples, setting.progress)
    cosine = min(each.cosine for each in outputs.values())
    return TaskResult(task.name, score, base, len(samples), outputs, cosine)


def compare_each(
    session: Session,
    reference: Session,
    samples: Sequence[Feeds],
    progress: Progress = lambda text, fraction: None,
) -> dict[str, Divergence]:
    """How far each of the reference's outputs is off in ``session``, over all samples.

    Top-1 is given for logits and probabilities alone, see `top1_agreement`; KL for logits.

    Raises:
        VerificationError: an output is missing.
    """
    names = [value.name for value in reference.outputs]
    missing = set(names) - {value.name for value in session.outputs}
    if missing:
        raise VerificationError(
            f"{session.path.name}: expected outputs {names}, found no {missing}"
        )
    pairs = []
    runs = in_original(reference, names), in_original(session, names)
    for index, feeds in enumerate(samples):
        progress("comparing", index / len(samples))
        pairs.append((runs[0](feeds), runs[1](feeds)))
    return {name: _compare([(a[name], b[name]) for a, b in pairs], name) for name in names}


def _compare(pairs: list[tuple[np.ndarray, np.ndarray]], name: str) -> Divergence:
    found = compare_outputs([({name: a}, {name: b}) for a, b in pairs])
    if found.top1 is None:
        found.top1 = top1_agreement(pairs)
    return found


def is_distribution(array: np.ndarray) -> bool:
    """Whether each row of [batch, …, classes] holds probabilities: none negative, 1 in all."""
    if not is_float(array) or array.ndim not in (2, 3) or array.size == 0 or array.shape[-1] < 2:
        return False
    sums = array.sum(axis=-1, dtype=np.float64)
    return bool((array >= 0).all() and (np.abs(sums - 1) < OFF_ONE).all())


def top1_agreement(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> float | None:
    """The share of rows with the same largest element, over pairs of [batch, …, classes].

    None where the first of a pair holds no probabilities: the largest element of an embedding, a
    hidden state or an image means nothing.  (Logits are told by their output's name: see
    `compare_outputs`.)
    """
    same = rows = 0
    for a, b in pairs:
        if a.shape != b.shape or not is_distribution(a):
            return None
        equal = a.argmax(-1) == b.argmax(-1)
        same, rows = same + int(equal.sum()), rows + equal.size
    return same / rows if rows else None
