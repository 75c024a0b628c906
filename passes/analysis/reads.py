"""What a node reads, its subgraphs included."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir


def read_by(node: ir.Node) -> Iterator[ir.Value]:
    """A node's inputs, and all that its subgraphs read: values from outside, and their own."""
    yield from (value for value in node.inputs if value is not None)
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            graphs = [attribute.as_graph()]
        elif attribute.type == ir.AttributeType.GRAPHS:
            graphs = list(attribute.as_graphs())
        else:
            continue
        for graph in graphs:
            yield from graph.outputs
            for inner in graph:
                yield from read_by(inner)
