"""Dimensions that exporters wrote as negative numbers, meaning that they are free."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir


def free_negative_dims(model: ir.Model) -> None:
    """Clear every negative dimension of a value in place: the value then has any length there.

    Paddle's exporter, among others, writes -1 for what a run decides; ONNX has no such number.
    """
    for value in _values(model):
        if value.shape is None:
            continue
        dims = list(value.shape)
        if any(isinstance(dim, int) and dim < 0 for dim in dims):
            value.shape = ir.Shape(
                [None if isinstance(dim, int) and dim < 0 else dim for dim in dims]
            )


def _values(model: ir.Model) -> Iterator[ir.Value]:
    graphs = list(model.graphs())
    for function in model.functions.values():
        graphs += [function.graph, *function.subgraphs()]
    for graph in graphs:
        yield from graph.inputs
        yield from graph.outputs
        for node in graph:
            yield from node.outputs
