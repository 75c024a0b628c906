"""Walk a graph and follow the coordinates of its channels."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from bitfold.passes.analysis.reads import read_by
from bitfold.passes.analysis.spaces.handlers import HANDLERS, followed
from bitfold.passes.analysis.spaces.symmetry import ALL
from bitfold.passes.analysis.spaces.trace import Trace
from bitfold.passes.core.rewire import constant


def trace_model(model: ir.Model, joined: Iterable[ir.Node] = ()) -> Trace:
    """The coordinates of the main graph's values; takes time in proportion to its nodes.

    Args:
        joined: norms whose gain is disregarded, so that a rotation passes through them: whoever
            asks for that turns their input back and their output forth.
    """
    trace = Trace(frozenset(joined))
    for node in model.graph:
        handler = HANDLERS.get((node.domain if node.domain != "ai.onnx" else "", node.op_type))
        if handler is None:
            _end(node, trace, "is an operator that channels cannot be followed through")
            continue
        reason = handler(node, trace)
        if reason is not None:
            _end(node, trace, reason)
        for value in node.inputs[followed(node) :]:
            ids = trace.ids(value)
            if ids is not None:
                trace.limit(ids, ALL, node, "reads it as something else than its data")
    states = {state.kept for state in trace.states}
    for value in model.graph.outputs:
        ids = trace.ids(value)
        if ids is not None and value not in states:
            trace.limit(ids, ALL, None, f"it is the output {value.name} of the model")
    return trace


def _end(node: ir.Node, trace: Trace, reason: str) -> None:
    """The spaces of what ``node`` reads end here."""
    for value in read_by(node):
        ids = trace.ids(value) if constant(value) is None else None
        if ids is not None:
            trace.limit(ids, ALL, node, reason)
