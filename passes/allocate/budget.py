"""What all weights may take together, and the choice that serves the outputs best within it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bitfold.passes.allocate.choose import choose
from bitfold.passes.allocate.offers import NODES
from bitfold.passes.allocate.stored import BODY, stored_besides
from bitfold.passes.core.targets import Target
from bitfold.passes.quantize.jobs import Job
from bitfold.runtime.formats.scheme import WeightScheme

WASTE = 1e-3
"""Share of the budget that may be kept for bodies that are not needed: each try takes time."""


@dataclass(frozen=True)
class Option:
    """A scheme that a weight may get.

    Attributes:
        loss: distance of the outputs that it makes, alone.
        nbytes: bytes of codes and scales.
    """

    scheme: WeightScheme
    loss: float
    nbytes: int


@dataclass(frozen=True)
class Budget:
    """How much the weights may take.

    Attributes:
        bits: in the mean for a number, scales included.
        size: instead, megabytes (1e6 bytes) of the whole model; 0 for as ``bits`` says.
        target: what the model must run on.
    """

    bits: float
    size: float
    target: Target

    def choose(
        self, model: ir.Model, jobs: Sequence[Job], options: Sequence[Sequence[Option]]
    ) -> list[Option]:
        """The option of each job's weight that moves the outputs least in sum.

        Raises:
            RecipeError: even the smallest options take more.
        """
        losses = [[each.loss for each in offered] for offered in options]
        sizes = [[each.nbytes for each in offered] for offered in options]

        def within(budget: float) -> list[Option]:
            places = choose(losses, sizes, budget)
            return [offered[place] for offered, place in zip(options, places, strict=True)]

        if not self.size:
            return within(self.bits / 8 * numbers_in(jobs))
        besides = stored_besides(model, [job.source for job in jobs])
        budget = self.size * 1e6 - besides - NODES[self.target] * len(jobs)
        if self.target != "native":
            return within(budget)
        shapes = [job.sites[0].shape for job in jobs]
        # Operators' bodies take space too: how many there are, the choice tells.
        bodies, step = 0, max(1, int(budget * WASTE / BODY))
        while True:
            chosen = within(budget - BODY * bodies)
            kinds = set(zip(shapes, (each.scheme for each in chosen), strict=True))
            if len(kinds) <= bodies:
                return chosen
            bodies += step


def numbers_in(jobs: Sequence[Job]) -> int:
    """How many numbers the weights have."""
    return sum(int(np.prod(job.sites[0].shape)) for job in jobs)
