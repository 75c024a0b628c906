"""Keep what a graph gives apart from what computes it, while others simplify the graph."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import onnx_ir as ir

_DOMAIN = "bitfold.pin"
"""No opset import names it: no rule looks at its nodes, and none leaves this module."""


@contextmanager
def pinned_outputs(model: ir.Model) -> Iterator[None]:
    """Let a node of its own read each graph's outputs for a while, subgraphs' included.

    Simplifying replaces a value by one that is equal.  For an output that is not always right:
    the other one may be an output too, with a name that must stay, or belong to the graph around,
    from where a subgraph must not return it.  Behind such a node every value is replaced freely;
    afterwards an output is the value itself where that may be, with the output's name, and else
    an Identity of it.
    """
    for graph in [model.graph, *model.graph.subgraphs()]:
        if graph.outputs:
            _pin(graph)
    try:
        yield
    finally:
        # A branch that was taken ahead has brought its node into the graph around, before that
        # graph's own.
        for node in list(model.graph.all_nodes()):
            if node.domain == _DOMAIN:
                _unpin(node)


def _pin(graph: ir.Graph) -> None:
    values = list(graph.outputs)
    names = [str(value.name) for value in values]
    outputs = [
        ir.Value(name=f"{name}/pinned_{index}", type=value.type, shape=value.shape)
        for index, (name, value) in enumerate(zip(names, values, strict=True))
    ]
    graph.append(ir.node("Outputs", values, {"names": names}, domain=_DOMAIN, outputs=outputs))
    for index, value in enumerate(outputs):
        graph.outputs[index] = value


def _unpin(node: ir.Node) -> None:
    graph = node.graph
    assert isinstance(graph, ir.Graph), "it was found in a graph"
    names = node.attributes["names"].as_strings()
    places = {id(value): index for index, value in enumerate(graph.outputs)}
    pairs = list(zip(names, node.inputs, node.outputs, strict=True))
    # Of several outputs that have become one value, the one whose name it has stays.
    pairs.sort(key=lambda pair: pair[1] is None or pair[1].name != pair[0])
    for name, value, output in pairs:
        assert value is not None, "outputs are not left out"
        place = places.get(id(output))
        if place is None:
            ir.convenience.replace_all_uses_with(output, value)
        elif value.name == name and not _computed_in(graph, value):
            graph.outputs[place] = value  # an input that is an output: it was so before
        elif not _computed_in(graph, value) or value.is_graph_output():
            same = ir.node("Identity", [value], outputs=[ir.Value(name=name)])
            graph.insert_before(node, same)
            _describe(same.outputs[0], output)
            graph.outputs[place] = same.outputs[0]
        else:
            value.name = name
            _describe(value, output)
            graph.outputs[place] = value
    graph.remove(node, safe=True)


def _computed_in(graph: ir.Graph, value: ir.Value) -> bool:
    producer = value.producer()
    return producer is not None and producer.graph is graph


def _describe(value: ir.Value, like: ir.Value) -> None:
    """Give ``value`` the type and the sizes that the output had, where these say more."""
    if value.type is None:
        value.type = like.type
    if value.shape is None:
        value.shape = like.shape
    elif like.shape is not None and len(value.shape) == len(like.shape):
        dims = zip(value.shape, like.shape, strict=True)
        value.shape = ir.Shape([_clearer(known, other) for known, other in dims])


def _clearer(dim: int | ir.SymbolicDim, other: int | ir.SymbolicDim) -> int | ir.SymbolicDim:
    """A number before a name, the name that the output had before another, any name before none."""
    if isinstance(dim, int):
        return dim
    return dim if isinstance(other, ir.SymbolicDim) and other.value is None else other
