"""Change the coordinates of every space that allows it, at random, and compare the outputs."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from support.graphs import assert_same, run

from bitfold.passes.analysis.spaces.find_spaces import find_spaces
from bitfold.passes.analysis.spaces.space import Space
from bitfold.passes.analysis.spaces.symmetry import PERMUTE, ROTATE, SCALE, Symmetry
from bitfold.passes.analysis.spaces.trace_model import trace_model
from bitfold.passes.core.context import Context
from bitfold.passes.core.own_coordinates import add_rotation, to_original, to_own
from bitfold.passes.transform import change
from bitfold.passes.transform.grow import Growth, grow
from bitfold.passes.transform.grow_limits import why_not_grow
from bitfold.passes.transform.rotation import Matrix

CHANGES = (SCALE, ROTATE, PERMUTE)


def change_all(model: ir.Model, symmetry: Symmetry, seed: int = 0) -> list[Space]:
    """Change every space that allows ``symmetry``, at random; returns these."""
    rng = np.random.default_rng(seed)
    changed = []
    with Context() as context:
        for space in find_spaces(trace_model(model), symmetry):
            if not space.allows(symmetry):
                continue
            drawn = draw(space, symmetry, rng)
            change.change_space(space, drawn, context)
            for held in space.states:
                if isinstance(drawn, change.Scale):
                    matrices = held.scales(drawn.factors)
                else:
                    turns = [_matrix(drawn, block) for block in range(space.blocks)]
                    matrices = held.matrices(turns)
                for value in (held.state.given, held.state.kept):
                    add_rotation(value, matrices)
            changed.append(space)
    return changed


def draw(space: Space, symmetry: Symmetry, rng: np.random.Generator) -> change.Change:
    """A random change of the kind ``symmetry`` of a space."""
    blocks, size = space.blocks, space.size
    if symmetry is SCALE:
        return change.Scale(np.exp2(rng.uniform(-1, 1, (blocks, size))))
    if symmetry is PERMUTE:
        return change.Permute(np.stack([rng.permutation(size) for _ in range(blocks)]))
    turns = [np.linalg.qr(rng.standard_normal((size, size)))[0] for _ in range(blocks)]
    return change.Rotate([Matrix(turn) for turn in turns])


def _matrix(drawn: change.Change, block: int) -> np.ndarray:
    if isinstance(drawn, change.Rotate):
        return drawn.rotations[block].apply(np.eye(len(drawn.rotations[block].matrix)))
    assert isinstance(drawn, change.Permute)
    return np.eye(len(drawn.orders[block]))[:, drawn.orders[block]]


def assert_exact(
    model: ir.Model, feeds: dict[str, np.ndarray], symmetry: Symmetry, tolerance: float = 1e-4
) -> list[Space]:
    """:func:`change_all` leaves the outputs the same; returns the spaces that it changed."""
    before = run_in_original(model, feeds)
    changed = change_all(model, symmetry)
    assert_same(before, run_in_original(model, feeds), tolerance)
    return changed


def run_in_original(model: ir.Model, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs of a model, with its caches in the coordinates that it had at first."""
    found = run(model, to_own(model.graph.inputs, feeds))
    return to_original(model.graph.outputs, found)


def grow_all(model: ir.Model, seed: int = 0) -> tuple[list[Space], list[str]]:
    """Give every space that allows it more channels, at random.

    Returns:
        The spaces, and why the others do not.
    """
    rng = np.random.default_rng(seed)
    trace = trace_model(model)
    spaces = find_spaces(trace, PERMUTE)
    reasons = why_not_grow(trace, spaces, limit=4096)
    fit = [space for space, reason in zip(spaces, reasons, strict=True) if not reason]
    growths = [Growth(space, rng.choice([1, 1, 2, 3], space.size)) for space in fit]
    with Context() as context:
        grow(model, trace, growths, context)
    return fit, [reason for reason in reasons if reason]
