"""Judge choices of schemes by what all weights lose when they are rounded at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import itemgetter

import onnx_ir as ir

from bitfold.passes.allocate.budget import Budget, Option
from bitfold.passes.allocate.probes import moved_by
from bitfold.passes.core.context import Context
from bitfold.passes.quantize.jobs import Job
from bitfold.passes.quantize.plan import plan
from bitfold.passes.quantize.quantize import Quantize
from bitfold.runtime.errors import RecipeError

JUDGED = 4
"""Sample inputs that choices are compared on, at most."""


def best_together(
    model: ir.Model,
    jobs: Sequence[Job],
    options: Sequence[Sequence[Option]],
    budget: Budget,
    item: Quantize,
    context: Context,
) -> list[Option]:
    """The choice that moves the outputs least when all weights are rounded at once.

    Args:
        jobs: their weights' notes are overwritten.
        options: what each weight may get.
        item: rounds weights as they are noted.
    """
    samples = context.statistics()[:JUDGED]

    def together(chosen: Sequence[Option]) -> float:
        context.progress("rounding all weights", 1.0)
        for job, option in zip(jobs, chosen, strict=True):
            plan(job.source, option.scheme)
        return moved_by(item, model, samples)

    choices = _choices(model, jobs, options, budget)
    tried, moved = [next(choices)], list[float]()
    for chosen in choices:
        moved = moved or [together(tried[0])]
        tried.append(chosen)
        moved.append(together(chosen))
        if moved[-1] > min(moved):
            break
    if moved:
        text = "all weights together, with ever fewer formats of few bits, move the outputs by"
        context.entry.note(f"{text} {', '.join(f'{each:.2g}' for each in moved)}")
    return min(zip(moved, tried, strict=True), key=itemgetter(0))[1] if moved else tried[0]


def _choices(
    model: ir.Model,
    jobs: Sequence[Job],
    options: Sequence[Sequence[Option]],
    budget: Budget,
) -> Iterator[list[Option]]:
    """Choices among all formats, among those without the fewest bits, and so on.

    That losses add up holds for small ones: what weights of very few bits lose together may be
    many times what each of them loses alone.
    """
    last = None
    for fewest in sorted({each.scheme.number.bits for offered in options for each in offered}):
        if last and all(each.scheme.number.bits >= fewest for each in last):
            continue  # the same would be chosen again
        left = [[e for e in offered if e.scheme.number.bits >= fewest] for offered in options]
        if not all(left):
            return
        try:
            chosen = budget.choose(model, jobs, left)
        except RecipeError:
            if last is None:
                raise
            return  # the budget is too small to do without
        yield chosen
        last = chosen
