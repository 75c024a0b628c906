"""Names for the nodes and values of a graph under construction, as an exporter gives them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import onnxscript


class Scope:
    """A module path inside a graph that an onnxscript `GraphBuilder` is building.

    A node gets the name `/path/OpType`, with `_1`, `_2`… for later ones of the same type, and
    its output `<node>_output_0`: the names that exporters derive from a PyTorch module tree.
    Children share the builder and the counters, so that names stay unique in the graph.

    Args:
        builder: where nodes go.
        path: the module path, `""` for the root.
    """

    def __init__(
        self, builder: onnxscript.GraphBuilder, path: str = "", _seen: Counter[str] | None = None
    ) -> None:
        self._builder = builder
        self._path = path
        self._seen: Counter[str] = Counter() if _seen is None else _seen

    def child(self, name: str) -> Scope:
        """The scope of the submodule `name` (`layers.0`, `self_attn`…)."""
        return Scope(self._builder, f"{self._path}/{name}", self._seen)

    def add(
        self, op_type: str, *inputs: Any, out: str | None = None, **attributes: Any
    ) -> ir.Value:
        """Append one node of a standard op and return its output.

        Args:
            op_type: the op; its schema comes from the graph's opset.
            inputs: values; a Python number or list becomes an initializer of the type the
                schema asks for, shared by all its users.
            out: the output's name, where it is a graph output; else the exporter-like name.
            attributes: the node's attributes.
        """
        stem = f"{self._path}/{op_type}"
        count = self._seen[stem]
        self._seen[stem] += 1
        name = f"{stem}_{count}" if count else stem
        value: ir.Value = getattr(self._builder.op, op_type)(*inputs, _name=name, **attributes)
        value.name = out or f"{name}_output_0"
        return value

    def initializer(self, name: str, tensor: ir.TensorProtocol) -> ir.Value:
        """Register a named weight."""
        return self._builder.initializer(tensor, name, qualify=False)


def drop_builder_notes(nodes: Sequence[ir.Node]) -> None:
    """Remove the metadata that the builder leaves on nodes: an exported file carries none."""
    for node in nodes:
        node.metadata_props.clear()
