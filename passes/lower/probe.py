"""Learn what a small part of a graph computes by running it.

A mask or a table of rotary angles is written in as many ways as there are exporters.  Instead of
recognizing each, the nodes between the graph's inputs and the value are cut out and run on small
inputs, and the results are compared with what they would have to be.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from bitfold.passes.core.context import Feeds

MAX_NODES = 400
"""A part with more nodes than this is not run: it is not a mask or a table."""

MAX_WEIGHT = 1 << 22
"""Nor one that reads a constant of more elements than this."""


@dataclass(frozen=True)
class Part:
    """The nodes that compute some values from the inputs of the graph.

    Attributes:
        outputs: the values.
        nodes: in graph order.
        inputs: the graph inputs that are read.
        by_value: those of them whose content matters, not just their shape.
        constants: the initializers that are read.
    """

    outputs: tuple[ir.Value, ...]
    nodes: tuple[ir.Node, ...]
    inputs: tuple[ir.Value, ...]
    by_value: tuple[ir.Value, ...]
    constants: tuple[ir.Value, ...]


def cut_out(graph: ir.Graph, outputs: Iterable[ir.Value]) -> Part | str:
    """The part of ``graph`` behind ``outputs``, or why it cannot be run on its own."""
    wanted = tuple(outputs)
    reached: set[ir.Node] = set()
    leaves: dict[ir.Value, bool] = {}
    pending = [(value, True) for value in wanted]
    seen: set[tuple[ir.Value, bool]] = set()
    while pending:
        value, matters = pending.pop()
        if (value, matters) in seen:
            continue
        seen.add((value, matters))
        node = value.producer()
        if node is None:
            leaves[value] = leaves.get(value, False) or matters
            continue
        reached.add(node)
        if len(reached) > MAX_NODES:
            return f"{wanted[0].name} is computed by more than {MAX_NODES} nodes"
        if any(attr.type in _SUBGRAPHS for attr in node.attributes.values()):
            return f"{wanted[0].name} is computed by control flow ({node.op_type} {node.name})"
        matters = matters and node.op_type not in ("Shape", "Size")
        pending.extend((each, matters) for each in node.inputs if each is not None)
    constants = [value for value in leaves if value.is_initializer() and not value.is_graph_input()]
    if any(v.const_value is None or v.const_value.size > MAX_WEIGHT for v in constants):
        return f"{wanted[0].name} is computed from a large weight"
    inputs = tuple(value for value in graph.inputs if value in leaves)
    return Part(
        wanted,
        tuple(node for node in graph if node in reached),
        inputs,
        tuple(value for value in inputs if leaves[value]),
        tuple(constants),
    )


class Probe:
    """A part of a graph, ready to run in ORT."""

    def __init__(self, model: ir.Model, part: Part) -> None:
        self.part = part
        copies: dict[ir.Value, ir.Value] = {}

        def copy(value: ir.Value) -> ir.Value:
            return ir.Value(name=value.name, type=value.type, shape=value.shape)

        for value in part.inputs:
            copies[value] = copy(value)
        inputs = [copies[value] for value in part.inputs]
        initializers = []
        for value in part.constants:
            copies[value] = ir.Value(
                name=value.name,
                type=value.type,
                shape=value.shape,
                const_value=value.const_value,
            )
            initializers.append(copies[value])
        nodes = []
        for node in part.nodes:
            new = ir.node(
                node.op_type,
                [None if value is None else copies[value] for value in node.inputs],
                {name: attribute.value for name, attribute in node.attributes.items()},
                domain=node.domain,
                num_outputs=len(node.outputs),
                name=node.name,
            )
            for old, output in zip(node.outputs, new.outputs, strict=True):
                output.name, output.type = old.name, old.type
                copies[old] = output
            nodes.append(new)
        graph = ir.Graph(
            inputs,
            [copies[value] for value in part.outputs],
            nodes=nodes,
            initializers=initializers,
            opset_imports=dict(model.opset_imports),
            name="probe",
        )
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        proto = ir.to_proto(ir.Model(graph, ir_version=10))
        self._session = ort.InferenceSession(
            proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def run(self, feeds: Feeds) -> list[np.ndarray] | None:
        """The outputs for these inputs, or None where the part does not take them."""
        names = {value.name for value in self.part.inputs}
        try:
            result: list[np.ndarray] = self._session.run(
                None, {name: array for name, array in feeds.items() if name in names}
            )
        except Exception:
            # ORT raises a class of its own for each status; any of them is a "no" here.
            return None
        return result


_SUBGRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
