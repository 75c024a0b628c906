"""What lowerings share: look at what follows a linear op, and put an operator in their place."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir


def only_consumer(value: ir.Value, graph: object) -> ir.Node | None:
    """The one node that uses ``value``; None if several do, or one outside of ``graph``."""
    uses = list(value.uses())
    if len(uses) != 1 or value.is_graph_output() or uses[0].node.graph is not graph:
        return None
    return uses[0].node


def is_op(node: ir.Node, op_type: str, domain: str = "") -> bool:
    """Whether ``node`` is the operator ``op_type`` of ``domain``."""
    return node.op_type == op_type and node.domain == domain


def array_of(value: ir.Value | None) -> np.ndarray | None:
    """The array of an initializer; None for an input that is left out."""
    return None if value is None or value.const_value is None else value.const_value.numpy()


def take_place(anchor: ir.Node, last: ir.Value, node: ir.Node) -> None:
    """Put ``node`` where ``last`` was computed and give its output that value's name.

    ``anchor`` is the linear op itself; it goes, and so does what computed ``last``.
    """
    producer, graph = last.producer(), anchor.graph
    assert producer is not None, "it is computed by the anchor or its tail"
    assert graph is not None, "sites come from a graph"
    value = node.outputs[0]
    value.type, value.shape = last.type, last.shape
    graph.insert_before(producer, node)
    name = last.name
    last.replace_all_uses_with(value, replace_graph_outputs=True)
    last.name = f"{name}.replaced"
    value.name = name
    for dead in dict.fromkeys((producer, anchor)):
        if not any(output.uses() for output in dead.outputs):
            graph.remove(dead, safe=True)


def replace_chain(chain: list[ir.Node], node: ir.Node) -> None:
    """Put ``node`` in the place of ``chain`` and give its outputs the names of the chain's."""
    last = chain[-1]
    graph = last.graph
    assert graph is not None, "sites come from a graph"
    graph.insert_before(last, node)
    for old, new in zip(last.outputs, node.outputs, strict=True):
        name = old.name
        new.type, new.shape = old.type, old.shape
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        old.name, new.name = f"{name}.replaced", name
    for dead in reversed(chain):
        graph.remove(dead, safe=True)
