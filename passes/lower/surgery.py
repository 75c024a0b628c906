"""Small graph surgery of the lowerings: put nodes in another's place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir


class Builder(ir.tape.Tape):
    """Collects nodes that are then put into a graph together, named after a site.

    Example::

        build = Builder("layer0/MatMul")
        doubled = build("Mul", x, two)
        build.replace(node.outputs[0], doubled)
    """

    def __init__(self, site: str) -> None:
        super().__init__()
        self.site = site

    def __call__(
        self, op: str, *inputs: ir.Value | None, domain: str = "", **attributes: Any
    ) -> ir.Value:
        """Add a node and return its one output."""
        while inputs and inputs[-1] is None:
            inputs = inputs[:-1]
        return self.op(op, inputs, attributes, domain=domain)

    def place(self, anchor: ir.Node, *, after: bool = False) -> None:
        """Put the nodes before (or after) ``anchor``, all with names of their own."""
        graph = anchor.graph
        assert graph is not None, "lowered nodes come from a graph"
        nodes: Sequence[ir.Node] = list(self.nodes)
        for number, node in enumerate(nodes):
            node.name = f"{self.site}/{node.op_type}" + (f"_{number}" if number else "")
            for value in node.outputs:
                if value.name is None:
                    value.name = f"{node.name}_output"
        if after:
            graph.insert_after(anchor, nodes)
        else:
            graph.insert_before(anchor, nodes)

    def replace(self, old: ir.Value, new: ir.Value) -> None:
        """Put the nodes where ``old`` is computed; ``new`` takes its name, type and readers."""
        producer = old.producer()
        assert producer is not None, "what is replaced is computed by a node"
        name = old.name
        new.type, new.shape = old.type, old.shape
        old.name = f"{name}.replaced"
        new.name = name
        self.place(producer)
        old.replace_all_uses_with(new, replace_graph_outputs=True)


def remove_dead(*nodes: ir.Node | None) -> None:
    """Remove those of ``nodes`` whose outputs no one reads, in order."""
    for node in dict.fromkeys(nodes):
        if node is None or node.graph is None:
            continue
        if not any(value.uses() or value.is_graph_output() for value in node.outputs):
            node.graph.remove(node, safe=True)
