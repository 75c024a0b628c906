"""``rotate-learned``: rotate by matrices learned on sample inputs, at the scheme to come."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis.spaces.borders import Inside
from bitfold.passes.analysis.spaces.space import Space
from bitfold.passes.core.base import Promise
from bitfold.passes.core.context import Context
from bitfold.passes.quantize.quantize import Quantize
from bitfold.passes.transform.learn.descend import descend
from bitfold.passes.transform.learn.gather import Inputs, input_names, terms_of
from bitfold.passes.transform.learn.terms import Term
from bitfold.passes.transform.rotate import Rotate
from bitfold.passes.transform.rotation import Matrix, RandomizedHadamard, Rotation
from bitfold.runtime.formats.scheme import Acts

CHECKED = 4
"""Times as many rows as a step takes are looked at to tell rotations apart."""


@dataclass(frozen=True)
class RotateLearned(Rotate):
    """Rotate as ``rotate`` does, by orthogonal matrices that make rounding cost least.

    The cost of a rotation is what rounding the inputs (and weights of 4 bits or less) of all
    linear ops that read or write the space is expected to add to their outputs, relative to
    these; it is lowered by descent among orthogonal matrices, from the best of some randomized
    Hadamard matrices on.  SpinQuant, Liu et al., arXiv 2405.16406; OSTQuant, Hu et al., arXiv
    2501.13987, whose quantization space utilization such a matrix raises.

    1. Spaces, borders and online rotations are those of ``rotate``.
    2. A space with a border keeps the best randomized Hadamard matrix: as a node, any other
       would be a matrix product.
    3. A matrix that does not come out better than the one it began with is not taken.
    4. Without sample inputs rotations are random.

    Attributes:
        weights, group, symmetric, acts, act_granularity: the scheme, as in ``quantize``.
        steps: of descent; 0 for the best randomized Hadamard matrix.
        tries: randomized Hadamard matrices to choose from.
        rows: rows of each input and weight that a step looks at.
        samples: rows of each input that are kept to draw these from.
    """

    name: ClassVar[str] = "rotate-learned"
    promise: ClassVar[Promise] = Promise.EXACT

    weights: str = "int8"
    group: int = 32
    symmetric: bool = False
    acts: Acts = "int4"
    act_granularity: Literal["group", "token"] = "group"
    steps: int = 100
    tries: int = 8
    rows: int = 24
    samples: int = 1024

    def __post_init__(self) -> None:
        self._quantizer()

    def _quantizer(self) -> Quantize:
        return Quantize(
            weights=self.weights,
            group=self.group,
            symmetric=self.symmetric,
            acts=self.acts,
            act_granularity=self.act_granularity,
        )

    def rotations(
        self, model: ir.Model, plan: Sequence[tuple[Space, Inside]], context: Context
    ) -> Iterator[Sequence[Rotation]]:
        """Those of each space's blocks."""
        feeds = context.statistics() if plan else ()
        if not feeds:
            context.entry.note("no sample inputs: rotations are random")
            yield from super().rotations(model, plan, context)
            return
        scheme = self._quantizer().scheme(False)
        names = input_names((found.space for _, found in plan), scheme)
        inputs = Inputs.of(model, names, feeds, self.samples, context.rng("rotate-learned"))
        for done, (space, found) in enumerate(plan):
            context.progress(f"learning the rotation of {space.name}", done / len(plan))
            terms = terms_of(found.space, inputs, scheme, context.rng(f"weights {space.name}"))
            yield self._learned(space, terms, found.borders > 0 or not self.steps, context)

    def _learned(
        self, space: Space, terms: Sequence[Term], drawn_alone: bool, context: Context
    ) -> Sequence[Rotation]:
        cost = _cost_of(terms, self.rows)
        drawn = [self._draw(space, number, context) for number in range(max(1, self.tries))]
        if not terms:
            return drawn[0]
        dense = [
            np.stack([r.apply(np.eye(space.size, dtype=np.float32)) for r in d]) for d in drawn
        ]
        costs = [cost(each, None)[0] for each in dense]
        best = int(np.argmin(costs))
        told = f"expected relative error {np.mean(costs):.3g} at random, {min(costs):.3g} the best"
        if drawn_alone:
            context.entry.note(f"{space.name}: {told} of {len(costs)}")
            return drawn[best]
        rng = context.rng(f"rotate-learned {space.name}")
        learned = descend(cost, dense[best], self.steps, rng)
        after = cost(learned.astype(np.float32), None)[0]
        context.entry.note(f"{space.name}: {told} of {len(costs)}, {after:.3g} learned")
        return [Matrix(each) for each in learned]

    def _draw(self, space: Space, number: int, context: Context) -> list[RandomizedHadamard]:
        suffix = f" {number}" if number else ""
        return [
            RandomizedHadamard.draw(space.size, context.rng(f"rotate {space.name} {block}{suffix}"))
            for block in range(space.blocks)
        ]


def _cost_of(
    terms: Sequence[Term], rows: int
) -> Callable[[np.ndarray, np.random.Generator | None], tuple[float, np.ndarray]]:
    def cost(rotations: np.ndarray, rng: np.random.Generator | None) -> tuple[float, np.ndarray]:
        total, gradient = 0.0, np.zeros_like(rotations)
        for term in terms:
            part, slope = term.cost(rotations, rng, rows if rng else CHECKED * rows)
            total += part
            gradient += slope
        return total, gradient

    return cost
