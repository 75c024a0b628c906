"""What passes that scale channels have in common: measure, choose factors, judge, change."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis.activations import ChannelStatistics, channel_statistics
from bitfold.passes.analysis.sites import site_of
from bitfold.passes.analysis.spaces.find_spaces import find_spaces
from bitfold.passes.analysis.spaces.gather import Part, average, largest, reach
from bitfold.passes.analysis.spaces.space import Held, Space
from bitfold.passes.analysis.spaces.symmetry import SCALE
from bitfold.passes.analysis.spaces.trace import Kind, Role
from bitfold.passes.analysis.spaces.trace_model import trace_model
from bitfold.passes.core.base import Pass, Promise
from bitfold.passes.core.context import Context
from bitfold.passes.core.own_coordinates import add_rotation
from bitfold.passes.core.words import counted
from bitfold.passes.transform.change import Scale, change_space, shared_elsewhere
from bitfold.passes.transform.layer_error import LayerError, decibels, worth
from bitfold.runtime.formats import format_named
from bitfold.runtime.formats.scheme import Acts, QuantScheme, WeightScheme, takes_zero_points

ROWS = 256
"""Rows of every input that errors are estimated on."""

WIDEST = 2.0**10
"""Factors lie within this of their geometric mean: stored scales are of 16 bits."""


@dataclass(frozen=True)
class Candidate:
    """Something that may be done to a space: ``factors * (x + shifts)``, [blocks, size] each.

    Attributes:
        text: for people: what the channels are scaled by.
    """

    text: str
    factors: np.ndarray
    shifts: np.ndarray | None = None


@dataclass(frozen=True)
class Measured:
    """A space, and what its readers were seen to read."""

    space: Space
    seen: Mapping[str, ChannelStatistics]

    def inputs(self, statistic: Literal["reach", "magnitude"]) -> np.ndarray:
        """Largest magnitude, or mean magnitude, of each channel: f64[blocks, size]."""
        parts = []
        for held in self.space.readers:
            parts.append((held, getattr(self.seen[input_of(held)], statistic)))
        return (largest if statistic == "reach" else average)(self.space, parts)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The smallest and the largest value of each channel, f64[blocks, size] each."""
        seen = [(held, self.seen[input_of(held)]) for held in self.space.readers]
        low = largest(self.space, [(held, -each.low) for held, each in seen], -np.inf)
        high = largest(self.space, [(held, each.high) for held, each in seen], -np.inf)
        return -low, high

    def weights(self, role: Role) -> np.ndarray:
        """Largest magnitude of each channel in the weights that read, or write, it."""
        return largest(self.space, weight_parts(self.space, role))


def weight_parts(space: Space, role: Role) -> list[Part]:
    """The weights of a space, depthwise ones among them, with what each channel reaches."""
    return [(held, reach(held)) for held in weights_of(space, role)]


def weights_of(space: Space, role: Role) -> list[Held]:
    """The weights that read, or write, a space, depthwise ones among them."""
    return [held for held in space.held if is_weight(held) and held.port.role is role]


def is_weight(held: Held) -> bool:
    """Whether a parameter is one that is quantized: no bias, no norm's gain."""
    depthwise = held.port.kind is Kind.GAIN and held.port.op.op_type == "Conv"
    return depthwise or held.port.kind is Kind.WEIGHT


def input_of(held: Held) -> str:
    """The name of the value that a reader reads."""
    site = site_of(held.port.op)
    assert site is not None, "weights belong to sites"
    return str(site.data.name)


def balanced(factors: np.ndarray, alive: np.ndarray) -> np.ndarray:
    """Factors [blocks, size] about 1 in the geometric mean of each block; 1 where not ``alive``."""
    usable = alive & np.isfinite(factors) & (factors > 0)
    logs = np.log2(factors, out=np.zeros(factors.shape), where=usable)
    middle = logs.sum(1, keepdims=True) / np.maximum(1, usable.sum(1, keepdims=True))
    bound = np.log2(WIDEST)
    result: np.ndarray = np.exp2(np.where(usable, np.clip(logs - middle, -bound, bound), 0))
    return result


@dataclass(frozen=True)
class ScalePass(Pass):
    """Base of the passes that scale the channels of spaces, so that quantizing costs less.

    A space is changed only where that lowers the estimated error of what reads it: the noise of
    rounded inputs times rounded weights over the signal, on rows of the sample inputs, the mean
    over the readers.

    1. A space that an operator keeps from being scaled stays, with the reason; so does one that
       nothing linear reads.
    2. Caches change coordinates from run to run alike; the model says so in the metadata of its
       inputs and outputs, for whoever compares them.
    3. What would make the error larger, or hardly smaller, is not done; the report has both.

    Attributes:
        spaces: globs of spaces (by their first writer's name) to scale.
        weights, group, symmetric, acts, act_granularity: how the readers will be quantized, as in
            ``quantize``; errors are estimated for it.
        caches: scale what caches hold; without it, their spaces stay.
        copy_limit: elements; a weight that others read in other coordinates is copied up to here.
    """

    promise: ClassVar[Promise] = Promise.EXACT

    spaces: tuple[str, ...] = ("*",)
    weights: str = "int4"
    group: int = 32
    symmetric: bool = False
    acts: Acts = "int8"
    act_granularity: Literal["group", "token"] = "group"
    caches: bool = True
    copy_limit: int = 4096

    def __post_init__(self) -> None:
        self.scheme()

    def scheme(self) -> QuantScheme:
        """How readers will be quantized."""
        symmetric = self.symmetric or not takes_zero_points(format_named(self.weights))
        weight = WeightScheme(self.weights, self.group, symmetric)
        return QuantScheme(weight, self.acts, self.act_granularity)

    @abstractmethod
    def candidates(self, measured: Measured) -> list[Candidate]:
        """What may be done to a space; what loses least is."""

    def concerns(self, space: Space) -> bool:
        """Whether it is a space for this pass at all: if not, the report leaves it out."""
        return bool(space.readers)

    def make(self, space: Space, chosen: Candidate, context: Context) -> None:
        """Change a space."""
        rescale(space, chosen.factors, context)

    def run(self, model: ir.Model, context: Context) -> bool:
        found = []
        for space in find_spaces(trace_model(model), SCALE):
            if self.concerns(space):
                reason = self.refusal(space)
                if reason:
                    context.entry.skipped(space.name, reason)
                else:
                    found.append(space)
        seen = statistics_of(model, found, context)
        changed = False
        for done, space in enumerate(found if seen else []):
            context.progress(f"scaling {space.name}", done / len(found))
            tried = self.candidates(Measured(space, seen))
            changed |= self.judge(space, seen, tried, context)
        return changed

    def refusal(self, space: Space) -> str:
        """Why a space cannot be scaled, whatever the factors; empty where it can."""
        if not any(fnmatchcase(space.name, glob) for glob in self.spaces):
            return "not among the recipe's spaces"
        reason = space.why_not(SCALE)
        if reason:
            return reason
        if any(held.inverse.any() for held in space.readers):
            return "it is read as it is and as the other side of a product"
        if space.states and not self.caches:
            return f"{space.states[0].state.given.name} holds it from run to run"
        nothing = Scale(np.ones((space.blocks, space.size)))
        return shared_elsewhere(space, nothing, self.copy_limit)

    def judge(
        self,
        space: Space,
        seen: Mapping[str, ChannelStatistics],
        tried: Sequence[Candidate],
        context: Context,
    ) -> bool:
        """Do to a space what loses least, if that is worth it; the report tells either way."""
        if not all(seen[input_of(held)].finite for held in space.readers):
            context.entry.skipped(space.name, "what it holds is not finite on the sample inputs")
            return False
        error = LayerError(space, seen, self.scheme())
        before = error.of(np.ones((space.blocks, space.size)))
        errors = [error.of(each.factors, each.shifts) for each in tried]
        place = int(np.argmin(errors))
        figures = f"{decibels(before)} would become {decibels(errors[place])}"
        if not worth(before, errors[place]):
            context.entry.skipped(space.name, "its readers would gain nothing", figures)
            return False
        self.make(space, tried[place], context)
        blocks = f" in {space.blocks} blocks" if space.blocks > 1 else ""
        readers = counted(len(space.readers), "reader")
        figures = f"SQNR of {readers} {decibels(before)} → {decibels(errors[place])}"
        context.entry.changed(
            space.name, f"{space.size} channels{blocks} by {tried[place].text}: {figures}"
        )
        return True


def statistics_of(
    model: ir.Model, spaces: Sequence[Space], context: Context
) -> dict[str, ChannelStatistics]:
    """Statistics of what the readers of spaces read; empty, with a note, without sample inputs."""
    axes = {}
    for held in (held for space in spaces for held in space.readers):
        axes[input_of(held)] = (1,) if held.port.op.op_type == "Conv" else (-1,)
    samples = context.statistics() if axes else ()
    if axes and not samples:
        context.entry.note("no sample inputs to see what the channels hold: nothing is changed")
    return channel_statistics(model, axes, samples, ROWS)


def rescale(space: Space, factors: np.ndarray, context: Context) -> None:
    """Scale a space, caches included."""
    change_space(space, Scale(factors), context)
    for held in space.states:
        matrices = held.scales(factors)
        for value in (held.state.given, held.state.kept):
            add_rotation(value, matrices)
