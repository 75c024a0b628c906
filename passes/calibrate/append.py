"""Append nodes to a graph that compute what is to be known of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir


class Appender:
    """Appends nodes of the standard domain to a graph.

    Args:
        graph: to append to.
        stem: begins the names of all that is new.

    Attributes:
        functions: that appended nodes call, which the model must get.
    """

    def __init__(self, graph: ir.Graph, stem: str) -> None:
        self.graph = graph
        self.stem = stem
        self.made = 0
        self.functions: dict[ir.OperatorIdentifier, ir.Function] = {}

    def node(
        self,
        op: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Any] | None = None,
        dtype: ir.DataType = ir.DataType.FLOAT,
    ) -> ir.Value:
        """Append a node; return its one output."""
        return self.append(ir.node(op, inputs, attributes), dtype)

    def append(self, node: ir.Node, dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Value:
        """Append ``node``, whose outputs get names; return the last of them."""
        for value in node.outputs:
            value.name, value.dtype = self._name(), dtype
        self.graph.append(node)
        return node.outputs[-1]

    def shape(self, value: ir.Value, start: int, stop: int | None = None) -> ir.Value:
        """Dimensions ``start`` to ``stop`` of a value."""
        ends = {"start": start} if stop is None else {"start": start, "end": stop}
        return self.node("Shape", [value], ends, ir.DataType.INT64)

    def ints(self, *numbers: int) -> ir.Value:
        """A constant int64 vector."""
        return self.constant(np.array(numbers, np.int64))

    def floats(self, number: float) -> ir.Value:
        """A constant float32 scalar."""
        return self.constant(np.array(number, np.float32))

    def constant(self, array: np.ndarray) -> ir.Value:
        """A constant."""
        name = self._name()
        value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
        self.graph.register_initializer(value)
        return value

    def _name(self) -> str:
        self.made += 1
        return f"{self.stem}.{self.made}"
