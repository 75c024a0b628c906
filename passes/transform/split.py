"""``split``: put outlier channels in several shares, so that ranges need not cover them whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis.activations import ChannelStatistics
from bitfold.passes.analysis.site_weights import other_reader, set_site_weight
from bitfold.passes.analysis.sites import find_sites, site_of
from bitfold.passes.analysis.spaces.find_spaces import find_spaces
from bitfold.passes.analysis.spaces.space import Held, Space
from bitfold.passes.analysis.spaces.symmetry import PERMUTE, SCALE
from bitfold.passes.analysis.spaces.trace import Kind, Port, Trace
from bitfold.passes.analysis.spaces.trace_model import trace_model
from bitfold.passes.core.base import Promise
from bitfold.passes.core.context import Context
from bitfold.passes.core.rewire import constant, set_input
from bitfold.passes.core.words import counted
from bitfold.passes.quantize.conv_scheme import conv_rows
from bitfold.passes.quantize.jobs import SMALLEST, SMALLEST_DEPTHWISE
from bitfold.passes.transform.at_scheme import SchemePass
from bitfold.passes.transform.change import Scale, change_space, shared_elsewhere
from bitfold.passes.transform.grow import Growth, grow
from bitfold.passes.transform.grow_limits import why_not_grow
from bitfold.passes.transform.layer_error import decibels, worth
from bitfold.passes.transform.scaling import input_of, statistics_of
from bitfold.passes.transform.split_trial import Side, SplitTrial, scheme_with
from bitfold.passes.transform.splitting import nudged


@dataclass(frozen=True)
class Found:
    """A split that pays.

    Attributes:
        scales: for the activation side, the spaces to scale first, and their factors.
        cost: elements that the weights grow by.
        before, after: noise over signal, the mean over the readers.
    """

    growth: Growth
    side: Side
    scales: tuple[tuple[Space, np.ndarray], ...]
    cost: int
    before: float
    after: float

    @property
    def worth(self) -> float:
        """What an element buys."""
        return (self.before - self.after) / self.cost


@dataclass(frozen=True)
class Split(SchemePass):
    """Duplicate outlier channels, so that their shares fit into narrower ranges.

    Outlier channel splitting, Zhao et al., arXiv 1901.09504, in every space whose channels may be
    reordered and meet nothing that counts them.  On the weight side a channel is written twice and
    each copy's weights are a half, apart by half a step, so that their codes add up to what the
    whole one's would have been.  On the activation side, where the space may be scaled, each copy
    of the channel is a half, and the weights stay.  A channel may be split again.

    1. A space that an operator keeps from it stays, with the reason: heads, which attention counts;
       what a norm reads or gives, whose mean square would change; groups of a convolution; weights
       that are too small to be quantized, and would grow to be.
    2. Channels are those whose splitting narrows most ranges, weighed by what the errors in them
       cost; sizes become multiples of ``multiple``, which kernels and groups like.
    3. A space is split only where that lowers the estimated error of what reads it at the scheme
       that is asked for; within the budget, those that gain most for their size come first.

    Attributes:
        budget: share of the linear ops' weights that they may grow by.
        side: ``weight`` to narrow the ranges of weights, ``activation`` those of inputs; ``best``
            for the one that loses less in each space.
        multiple: what sizes become multiples of.
        spaces: globs of spaces (by their first writer's name) to split.
        weights, group, symmetric, acts, act_granularity: how the readers will be quantized, as in
            ``quantize``; errors are estimated for it.
        copy_limit: elements; a weight that others read in other coordinates is copied up to here.
    """

    name: ClassVar[str] = "split"
    promise: ClassVar[Promise] = Promise.EXACT

    budget: float = 0.02
    side: Literal["weight", "activation", "best"] = "best"
    multiple: int = 16

    def run(self, model: ir.Model, context: Context) -> bool:
        trace = trace_model(model)
        spaces = self.splittable(trace, context)
        seen = statistics_of(model, spaces, context)
        by_port = _scalable(trace) if self.side != "weight" else {}
        found = []
        for done, space in enumerate(spaces if seen else []):
            context.progress(f"splitting {space.name}", done / len(spaces))
            best = self._best(space, seen, by_port)
            if best is not None and worth(best.before, best.after):
                found.append(best)
            else:
                context.entry.skipped(space.name, "its readers would gain nothing")
        chosen = self._within_budget(model, found, context)
        for each in chosen:
            for space, factors in each.scales:
                change_space(space, Scale(factors), context)
        grow(model, trace, [each.growth for each in chosen], context)
        self._align(chosen, context)
        return bool(chosen)

    def splittable(self, trace: Trace, context: Context) -> list[Space]:
        """Spaces that may be split; the others are told of."""
        found = [s for s in find_spaces(trace, PERMUTE) if s.readers and s.writers]
        kept = []
        for space, reason in zip(found, why_not_grow(trace, found, self.copy_limit), strict=True):
            if not self.wants(space):
                reason = "not among the recipe's spaces"
            reason = reason or _small(space)
            if reason:
                context.entry.skipped(space.name, reason)
            else:
                kept.append(space)
        return kept

    def _best(
        self,
        space: Space,
        seen: Mapping[str, ChannelStatistics],
        by_port: Mapping[int, tuple[Space, Held]],
    ) -> Found | None:
        if not all(seen[input_of(held)].finite for held in space.readers):
            return None
        trial = SplitTrial(space, seen, self.scheme())
        before = trial.error(np.ones(space.size, int), "weight")
        extra = -space.size % self.multiple or self.multiple
        sides: tuple[Side, ...] = ("weight", "activation") if self.side == "best" else (self.side,)
        found = []
        for side in sides:
            counts = trial.choose(extra, side)
            if counts is None:
                continue
            scales = _scales(space, counts, by_port, self.copy_limit)
            if side == "activation" and scales is None:
                continue
            after = trial.error(counts, side)
            first = tuple(scales or ()) if side == "activation" else ()
            growth = Growth(space, counts)
            found.append(Found(growth, side, first, _cost(space, extra), before, after))
        return min(found, key=lambda each: each.after, default=None)

    def _within_budget(
        self, model: ir.Model, found: Sequence[Found], context: Context
    ) -> list[Found]:
        sources = {site.source: int(np.prod(site.shape)) for site in find_sites(model)}
        left = self.budget * sum(sources.values())
        chosen = []
        for each in sorted(found, key=lambda each: -each.worth):
            space, counts = each.growth.space, each.growth.counts
            figures = f"SQNR {decibels(each.before)} -> {decibels(each.after)}"
            grown = f"{space.size} -> {counts.sum()} channels"
            if each.cost > left:
                context.entry.skipped(space.name, "beyond the budget", f"{grown}: {figures}")
                continue
            left -= each.cost
            chosen.append(each)
            readers = counted(len(space.readers), "reader")
            text = f"{grown}, {each.side} side: {readers}, {figures}"
            context.entry.changed(space.name, text)
        return chosen

    def _align(self, chosen: Sequence[Found], context: Context) -> None:
        """Move the shares of split weights apart by parts of a step."""
        columns: dict[ir.Node, tuple[np.ndarray, np.ndarray]] = {}
        for each in chosen:
            for held in each.growth.space.readers:
                # A reader of two spaces has grown by both.
                ones, none = np.ones(held.place.size, int), np.zeros(held.place.size, bool)
                copies, parts = columns.setdefault(held.port.op, (ones, none))
                inside = held.block >= 0
                copies[inside] = each.growth.counts[held.place[inside]]
                parts[inside] = each.side == "weight"
        for node, (copies, parts) in columns.items():
            site = site_of(node)
            assert site is not None, "weights belong to sites"
            if other_reader(site) is not None or not parts.any():
                continue
            scheme = scheme_with(site, self.scheme(), int(copies.sum()))
            weight, conv = np.asarray(site.weight(), np.float32), site.conv
            rows = weight if conv is None else conv_rows(weight, conv)
            moved = nudged(rows, copies, scheme.weight, parts).reshape(weight.shape)
            if conv is None:
                set_site_weight(site, moved, context)
            else:
                set_input(site.node, 1, conv.kernels(moved), context)


def _small(space: Space) -> str:
    """A weight that is too small to be quantized, and would no longer be."""
    for held in space.held:
        site = site_of(held.port.op)
        if site is not None and held.port.kind is not Kind.BIAS:
            deep = site.conv is not None and site.conv.depthwise
            if int(np.prod(site.shape)) < (SMALLEST_DEPTHWISE if deep else SMALLEST):
                return f"{site.node.op_type} {site.name} is too small to be quantized"
    return ""


def _scalable(trace: Trace) -> dict[int, tuple[Space, Held]]:
    """Of each port that reads (by identity), the space that scales it."""
    return {
        id(held.port): (space, held)
        for space in find_spaces(trace, SCALE)
        for held in space.readers
    }


def _scales(
    space: Space, counts: np.ndarray, by_port: Mapping[int, tuple[Space, Held]], limit: int
) -> list[tuple[Space, np.ndarray]] | None:
    """Spaces and factors that make each channel's numbers a share; None where they cannot be."""
    found: dict[int, tuple[Space, np.ndarray]] = {}
    for reader in space.readers:
        other, held = by_port.get(id(reader.port), (None, None))
        if other is None or held is None or not other.allows(SCALE) or other.states:
            return None
        if any(each.inverse.any() for each in other.held):
            return None
        factors = found.setdefault(id(other), (other, np.ones((other.blocks, other.size))))[1]
        inside = reader.block >= 0
        where = held.block[inside], held.place[inside]
        factors[where] = 1 / counts[reader.place[inside]]
    scales = list(found.values())
    if any(shared_elsewhere(other, Scale(factors), limit) for other, factors in scales):
        return None
    return scales


def _cost(space: Space, extra: int) -> int:
    """Elements that the space's weights grow by; about that many, where it holds some twice."""
    return sum(_elements(held.port) // space.size for held in space.held if _counts(held)) * extra


def _counts(held: Held) -> bool:
    return held.port.kind is Kind.WEIGHT


def _elements(port: Port) -> int:
    array = constant(port.node.inputs[port.index])
    assert array is not None, "ports are of constants"
    return int(array.size)
