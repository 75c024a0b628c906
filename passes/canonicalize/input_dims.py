"""Dimensions of graph inputs under names of their own, while shapes are followed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import onnx_ir as ir

from bitfold.passes.core.dim_names import is_placeholder, telling_names


@contextmanager
def distinct_input_dims(graph: ir.Graph) -> Iterator[None]:
    """While this lasts, no two dimensions share a name that does not tell that they are equal.

    1. Dimensions of inputs with a name that tells nothing (``[?, 3, ?, ?]``) get names of their
       own.
    2. Those names go from every other value: they may have come from any of the dimensions, and
       are to be inferred anew.

    Afterwards inputs and outputs have the shapes that they had.
    """
    doubtful = set()
    for value in graph.inputs:
        for dim, name in zip(value.shape or (), telling_names(value), strict=True):
            if name is None and not isinstance(dim, int) and dim.value is not None:
                doubtful.add(dim.value)
    kept = [(value, value.shape) for value in (*graph.inputs, *graph.outputs)]
    for index, value in enumerate(graph.inputs):
        if value.shape is not None:
            named = [
                ir.SymbolicDim(f"input_{index}_axis_{axis}")
                if name is None and not isinstance(dim, int)
                else dim
                for axis, (dim, name) in enumerate(
                    zip(value.shape, telling_names(value), strict=True)
                )
            ]
            value.shape = ir.Shape(named)
    for node in graph:
        _forget(node.outputs, doubtful)
    try:
        yield
    finally:
        for value, shape in kept:
            value.shape = shape


def _forget(values: Iterable[ir.Value], names: set[str]) -> None:
    """Make dimensions unknown that have placeholders or ``names``, alone or in an expression."""
    for value in values:
        if value.shape is None or value.is_graph_input():
            continue
        if any(_is_doubtful(dim, names) for dim in value.shape):
            value.shape = ir.Shape(
                [ir.SymbolicDim(None) if _is_doubtful(dim, names) else dim for dim in value.shape]
            )


def _is_doubtful(dim: int | ir.SymbolicDim, names: set[str]) -> bool:
    if isinstance(dim, int) or dim.value is None:
        return False
    if is_placeholder(dim.value) or dim.value in names:
        return True
    text = dim.value
    for sign in "*+-/(),":
        text = text.replace(sign, " ")
    return not names.isdisjoint(text.split())
