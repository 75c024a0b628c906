"""``rotate``: turn channels so that no single one stands out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis.site_weights import other_reader
from bitfold.passes.analysis.sites import Site, find_sites
from bitfold.passes.analysis.spaces.borders import Inside
from bitfold.passes.analysis.spaces.find_spaces import find_spaces
from bitfold.passes.analysis.spaces.space import Space
from bitfold.passes.analysis.spaces.symmetry import ROTATE
from bitfold.passes.analysis.spaces.trace_model import trace_model
from bitfold.passes.core.base import Pass, Promise
from bitfold.passes.core.context import Context
from bitfold.passes.core.own_coordinates import add_rotation
from bitfold.passes.core.words import counted
from bitfold.passes.transform import change
from bitfold.passes.transform.change import change_space
from bitfold.passes.transform.kurtosis_watch import KurtosisWatch
from bitfold.passes.transform.online import rotate_input
from bitfold.passes.transform.rotation import RandomizedHadamard, Rotation
from bitfold.passes.transform.turn_borders import find_inside, trace_joined, turn_borders

SMALLEST = 16
"""Spaces with fewer channels have none to hide an outlier among."""


@dataclass(frozen=True)
class Rotate(Pass):
    """Rotate every space that allows it, at no cost, and other sites' inputs as the model runs.

    A randomized Hadamard matrix R (in blocks, where there is none of the space's order) is
    multiplied into all that writes and reads the space, and cancels.  On a decoder these are R1,
    the residual stream, and R2, each head's values; online Hadamards before what no free rotation
    reaches (the down-projections) are R4.  QuaRot, Ashkboos et al., arXiv 2404.00456; SpinQuant,
    Liu et al., arXiv 2405.16406.

    1. A space that an operator keeps from being rotated stays, with the reason: a norm's gain is
       for ``fold-norm-gain``, a LayerNorm's mean for ``ln-to-rms``.
    2. So does one that no linear op writes.
    3. Caches of keys and values change coordinates from run to run alike; the model says so in
       the metadata of its inputs and outputs, for whoever compares them.
    4. A few borders may be crossed as the model runs: what leaves a rotated space for an operator
       that cannot take it rotated is turned back by a Hadamard node, what enters turned forth,
       at most ``borders`` values and fewer than the linear ops read; a norm that keeps its gain
       in front of a tied head stands between two, and takes the signs into its gain.
    5. Online, a weight that others read too stays as it is.

    On real samples the report says what it does to the kurtosis within a token of what linear ops
    read: the lower, the fewer channels stand out.

    Attributes:
        spaces: globs of spaces (by their first writer's name) to rotate.
        online: globs of sites whose inputs are rotated as the model runs, where their space is
            not rotated; none by default.
        caches: rotate what caches hold; without it, their spaces stay.
        copy_limit: elements; a weight that others read in other coordinates is copied up to here.
        borders: values of a space that may be turned as the model runs.
    """

    name: ClassVar[str] = "rotate"
    promise: ClassVar[Promise] = Promise.EXACT

    spaces: tuple[str, ...] = ("*",)
    online: tuple[str, ...] = ()
    caches: bool = True
    copy_limit: int = 4096
    borders: int = 2

    def run(self, model: ir.Model, context: Context) -> bool:
        chosen = list(self.choose(model, context)) if self.spaces else []
        for space, found in chosen:
            if isinstance(found, str):
                context.entry.skipped(space.name, found)
        plan = [(space, found) for space, found in chosen if not isinstance(found, str)]
        rotated: set[ir.Node] = set()
        drawn = list(self.rotations(model, plan, context))  # before anything changes
        watch = KurtosisWatch(model, [found.space for _, found in plan], context)
        for (space, found), rotations in zip(plan, drawn, strict=True):
            change_space(found.space, change.Rotate(rotations), context)
            if found.borders:
                turn_borders(model, found, _structured(rotations[0]), context)
            for held in space.states:
                matrices = held.matrices([each.apply(np.eye(space.size)) for each in rotations])
                for value in (held.state.given, held.state.kept):
                    add_rotation(value, matrices)
            rotated |= {held.port.op for held in found.space.readers}
            blocks = f" in {space.blocks} blocks" if space.blocks > 1 else ""
            readers = counted(len(found.space.readers), "reader")
            writers = counted(len(found.space.writers), "writer")
            crossed = f", {counted(found.borders, 'border')}" if found.borders else ""
            context.entry.changed(
                space.name, f"{space.size} channels{blocks}: {writers}, {readers}{crossed}"
            )
        watch.tell(model, context)
        return self._online(model, rotated, context) or bool(rotated)

    def choose(self, model: ir.Model, context: Context) -> Iterator[tuple[Space, Inside | str]]:
        """Each space that linear ops read, and what of it is turned, or why not."""
        trace = trace_joined(model) if self.borders > 1 else trace_model(model)
        turn = change.Rotate(())
        for space in find_spaces(trace, ROTATE):
            if not space.readers:
                continue  # nothing that a rotation would make easier to quantize
            found: Inside | str = self._refusal(space)
            found = found or find_inside(model, trace, space, turn, self.copy_limit, self.borders)
            yield space, found

    def rotations(
        self, model: ir.Model, plan: Sequence[tuple[Space, Inside]], context: Context
    ) -> Iterator[Sequence[Rotation]]:
        """The rotations of each space's blocks."""
        for space, _ in plan:
            yield [
                RandomizedHadamard.draw(space.size, context.rng(f"rotate {space.name} {block}"))
                for block in range(space.blocks)
            ]

    def _refusal(self, space: Space) -> str:
        if not any(fnmatchcase(space.name, glob) for glob in self.spaces):
            return "not among the recipe's spaces"
        if space.size < SMALLEST:
            return f"it has {space.size} channels"
        if not space.writers:
            return space.why_not(ROTATE) or "no linear op writes it"
        if space.states and not self.caches:
            return f"{space.states[0].state.given.name} holds it from run to run"
        return ""

    def _online(self, model: ir.Model, rotated: set[ir.Node], context: Context) -> bool:
        by_data: dict[ir.Value, list[Site]] = {}
        for site in find_sites(model):
            wanted = site.kind in ("matmul", "gemm") and site.matches(self.online)
            if not wanted or site.node in rotated or site.node.graph is not model.graph:
                continue
            if site.quantized is not None or site.shape[1] < SMALLEST:
                context.entry.skipped(site.name, "quantized already, or too small")
            elif site.data.shape is None:
                context.entry.skipped(site.name, "the rank of its input is not known")
            elif (other := other_reader(site)) is not None:
                context.entry.skipped(site.name, f"{other.op_type} {other.name} reads its weight")
            else:
                by_data.setdefault(site.data, []).append(site)
        for sites in by_data.values():
            size = rotate_input(model, sites, context)
            names = ", ".join(site.name for site in sites)
            context.entry.changed(names, f"input rotated online, in blocks of {size}")
        return bool(by_data)


def _structured(rotation: Rotation) -> RandomizedHadamard:
    assert isinstance(rotation, RandomizedHadamard), "the only kind that nodes can make"
    return rotation
