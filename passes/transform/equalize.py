"""``equalize``: give both sides of a channel, what writes and what reads it, the same range."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis.spaces.find_spaces import find_spaces
from bitfold.passes.analysis.spaces.gather import largest
from bitfold.passes.analysis.spaces.space import Space
from bitfold.passes.analysis.spaces.symmetry import SCALE
from bitfold.passes.analysis.spaces.trace import Role
from bitfold.passes.analysis.spaces.trace_model import trace_model
from bitfold.passes.core.context import Context
from bitfold.passes.core.stage import snapshot
from bitfold.passes.transform.change import Scale, change_space
from bitfold.passes.transform.scaling import (
    Candidate,
    Measured,
    ScalePass,
    balanced,
    statistics_of,
    weight_parts,
    weights_of,
)

EVEN = 0.01
"""Changes of less than this power of two end the iteration."""


@dataclass(frozen=True)
class Equalize(ScalePass):
    """Scale each channel so that what writes it and what reads it reach equally far.

    With ranges r1 of the weights that write a channel and r2 of those that read it, the first are
    divided by ``sqrt(r1 / r2)`` and the second multiplied by it, space after space, until nothing
    changes.  Cross-layer equalization, Nagel et al., arXiv 1906.04721, section 4.1; depthwise
    convolutions are a side of two spaces.

    1. Between the sides may be what positive factors pass through: sums, ReLUs, maxima.  A space
       that something else keeps from being scaled stays, with the reason: a clip, say, whose bound
       is the same for all channels.
    2. With sample inputs, a space is scaled only where that lowers the estimated error of what
       reads it; ``data_free``, or where only depthwise convolutions read it, wherever its weights
       come to fill their ranges better.

    Attributes:
        data_free: ask no sample inputs; look at ranges of weights alone.
        rounds: how often all spaces are gone over at most.
        spaces: globs of spaces (by their first writer's name) to scale.
        weights: number format that the weights will have.
        group: input channels that will share a scale; 0 for one scale per output channel.
        symmetric: whether zero points will be left out.
        acts: what inputs will be rounded to.
        act_granularity: an activation scale per row and weight group, or per row (token).
        caches: scale what caches hold; without it, their spaces stay.
        copy_limit: elements; a weight that others read in other coordinates is copied up to here.
    """

    name: ClassVar[str] = "equalize"

    data_free: bool = False
    rounds: int = 20

    def concerns(self, space: Space) -> bool:
        """Spaces that weights write and weights read, or might but for what limits them."""
        sides = [bool(weights_of(space, role)) for role in (Role.WRITE, Role.READ)]
        return all(sides) or (sides[1] and bool(space.why_not(SCALE)))

    def candidates(self, measured: Measured) -> list[Candidate]:
        """What one round would do to a space by itself."""
        return [Candidate("range", equalizing(*sides(measured.space)))]

    def run(self, model: ir.Model, context: Context) -> bool:
        spaces = []
        for space in find_spaces(trace_model(model), SCALE):
            if self.concerns(space):
                reason = self.refusal(space)
                if reason:
                    context.entry.skipped(space.name, reason)
                else:
                    spaces.append(space)
        if not spaces:
            return False
        totals = self._converge(model)
        asked = [] if self.data_free else [space for space in spaces if space.readers]
        seen = statistics_of(model, asked, context)
        changed = False
        for space, factors in zip(spaces, totals, strict=True):
            chosen = Candidate("ranges", factors)
            if seen and space.readers:
                changed |= self.judge(space, seen, [chosen], context)
            elif self.data_free or not space.readers:
                changed |= self._by_ranges(space, chosen, context)
        return changed

    def _converge(self, model: ir.Model) -> list[np.ndarray]:
        """What each space is scaled by in the end, found on a copy."""
        with Context() as scratch:
            copy = snapshot(model)
            spaces = [
                space
                for space in find_spaces(trace_model(copy), SCALE)
                if self.concerns(space) and not self.refusal(space)
            ]
            totals = [np.ones((each.blocks, each.size)) for each in spaces]
            for _ in range(self.rounds):
                changed = False
                for space, total in zip(spaces, totals, strict=True):
                    changed |= _step(space, total, scratch)
                if not changed:
                    break
        return totals

    def _by_ranges(self, space: Space, chosen: Candidate, context: Context) -> bool:
        write, read = sides(space)
        before = fill(write, read)
        after = fill(write * chosen.factors, read / chosen.factors)
        figures = f"its weights fill {before:.0%} of their ranges, and would fill {after:.0%}"
        if after < 1.01 * before:
            context.entry.skipped(space.name, "its weights fill their ranges already", figures)
            return False
        self.make(space, chosen, context)
        text = f"{space.size} channels by ranges: {before:.0%} of them filled → {after:.0%}"
        context.entry.changed(space.name, text)
        return True


def _step(space: Space, total: np.ndarray, scratch: Context) -> bool:
    """Equalize a space of the copy; whether that changed much."""
    factors = equalizing(*sides(space))
    if np.abs(np.log2(factors)).max(initial=0) < EVEN:
        return False
    change_space(space, Scale(factors), scratch)
    total *= factors
    return True


def sides(space: Space) -> tuple[np.ndarray, np.ndarray]:
    """How far what writes each channel reaches, and what reads it: [blocks, size] each."""
    write, read = (largest(space, weight_parts(space, role)) for role in (Role.WRITE, Role.READ))
    return write, read


def equalizing(write: np.ndarray, read: np.ndarray) -> np.ndarray:
    """Factors of the channels, about 1 in the geometric mean: ``sqrt(read / write)``."""
    alive = (write > 0) & (read > 0)
    ratio = np.where(alive, read, 1.0) / np.where(alive, write, 1.0)
    return balanced(np.sqrt(ratio), alive)


def fill(write: np.ndarray, read: np.ndarray) -> float:
    """The paper's precision: how much of their tensors' ranges the channels use, from 0 to 1."""
    shares: Sequence[np.ndarray] = [
        each / each.max(axis=1, keepdims=True, initial=np.finfo(float).tiny)
        for each in (write, read)
    ]
    return float(np.mean(shares[0] * shares[1]))
