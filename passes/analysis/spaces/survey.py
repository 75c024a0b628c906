"""All spaces of a model at once: what is one for one change of coordinates may be many for another.

Every link between coordinates holds for permutations, so that spaces found for these are the
largest, and those found for another change are parts of them: a residual stream with its norms'
outputs is one space to permute, but each output of a norm may be scaled by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis.spaces.borders import inside
from bitfold.passes.analysis.spaces.find_spaces import find_spaces
from bitfold.passes.analysis.spaces.kinds import kind_of
from bitfold.passes.analysis.spaces.space import Space
from bitfold.passes.analysis.spaces.symmetry import CENTER, PERMUTE, ROTATE, SCALE, Symmetry
from bitfold.passes.analysis.spaces.trace import Role, Trace
from bitfold.passes.analysis.spaces.trace_model import trace_model

CHANGES: dict[str, Symmetry] = {
    "rotate": ROTATE,
    "scale": SCALE,
    "permute": PERMUTE,
    "center": CENTER,
}
"""Every kind of change, by its word."""


@dataclass(frozen=True)
class SurveyedSpace:
    """A space, and what it consists of for each kind of change.

    Attributes:
        space: as found for permutations.
        kind: what it is (:mod:`.kinds`).
        parts: for each word of :data:`CHANGES` the spaces that it falls into.
        entered: of each part for ``center``, how many values that an operator gives would have to
            be centered as the model runs; None where that would not do.
    """

    space: Space
    kind: str
    parts: Mapping[str, tuple[Space, ...]]
    entered: tuple[int | None, ...]


def survey_spaces(model: ir.Model) -> list[SurveyedSpace]:
    """Every channel space of a canonical model, in the order of the graph."""
    trace = trace_model(model)
    whole = find_spaces(trace, PERMUTE)
    owner: dict[int, np.ndarray] = {}
    for number, space in enumerate(whole):
        for held in space.held:
            places = owner.setdefault(id(held.port), np.full(held.block.size, -1))
            places[held.block.ravel() >= 0] = number
    parts: list[dict[str, list[Space]]] = [{word: [] for word in CHANGES} for _ in whole]
    for word, symmetry in CHANGES.items():
        for part in whole if symmetry is PERMUTE else find_spaces(trace, symmetry):
            held = part.held[0]
            number = owner[id(held.port)][np.argmax(held.block.ravel() >= 0)]
            parts[number][word].append(part)
    return [
        SurveyedSpace(
            space,
            kind_of(space, of_space["scale"]),
            {word: tuple(found) for word, found in of_space.items()},
            tuple(_entered(model, trace, part) for part in of_space["center"]),
        )
        for space, of_space in zip(whole, parts, strict=True)
    ]


def _entered(model: ir.Model, trace: Trace, part: Space) -> int | None:
    read = {held.port.op.op_type for held in part.held if held.port.role is Role.READ}
    if not part.writers or "LayerNormalization" not in read:
        return None  # nobody asks
    found = inside(model, trace, part, CENTER)
    return None if isinstance(found, str) or found.exits else found.borders
