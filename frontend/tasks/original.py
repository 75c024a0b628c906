"""Run a model whose caches may be in coordinates of its own, in those of the original."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from bitfold.passes.core.context import Feeds
from bitfold.passes.core.own_coordinates import to_original, to_own
from bitfold.runtime.session import Session


def in_original(session: Session, names: Sequence[str] | None = None) -> Callable[[Feeds], Feeds]:
    """Runs the model with its caches in the original coordinates, whatever its own are.

    What comes out may so be given to any other form of the model.

    Args:
        names: outputs to compute; None for all.
    """
    graph = ir.load(session.path).graph
    inputs, outputs = list(graph.inputs), list(graph.outputs)
    return lambda feeds: to_original(outputs, session.run(to_own(inputs, feeds), names))
