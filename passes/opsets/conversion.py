"""One node on its way to the next opset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from bitfold.runtime.errors import ModelError, UnsupportedError


class Conversion:
    """One node on its way to the next opset; a step reads it and edits or replaces it."""

    def __init__(self, node: ir.Node, version: int) -> None:
        self.node = node
        self.version = version
        self._new: list[ir.Node] = []
        self._outputs: list[ir.Value] | None = None

    def input(self, index: int) -> ir.Value:
        """An input that must be there.

        Raises:
            ModelError: it is not.
        """
        value = self.optional(index)
        if value is None:
            raise ModelError(f"{self.label} lacks input {index}")
        return value

    def optional(self, index: int) -> ir.Value | None:
        """An input, or None where it is left out."""
        return self.node.inputs[index] if index < len(self.node.inputs) else None

    @property
    def label(self) -> str:
        """How errors name the node."""
        name = self.node.name or self.node.outputs[0].name or "(unnamed)"
        return f"node {name} ({self.node.op_type})"

    def integer(self, name: str, default: int) -> int:
        """The value of an integer attribute."""
        return self._value(name, ir.AttributeType.INT, default)  # type: ignore[return-value]

    def floating(self, name: str, default: float) -> float:
        """The value of a float attribute."""
        return self._value(name, ir.AttributeType.FLOAT, default)  # type: ignore[return-value]

    def string(self, name: str, default: str) -> str:
        """The value of a string attribute."""
        return self._value(name, ir.AttributeType.STRING, default)  # type: ignore[return-value]

    def take(self, name: str, kind: ir.AttributeType) -> object | None:
        """The value of an attribute, which the node loses; None where it has none."""
        value = self._value(name, kind, None)
        self.node.attributes.pop(name, None)
        return value

    def _value(self, name: str, kind: ir.AttributeType, default: object) -> object:
        attribute = self.node.attributes.get(name)
        if attribute is None:
            return default
        if attribute.is_ref() or attribute.type != kind:
            raise ModelError(f"{self.label}: expected attribute {name} to be of type {kind.name}")
        return attribute.value

    def constant(self, array: np.ndarray) -> ir.Value:
        """A constant."""
        return self.op("Constant", [], {"value": ir.tensor(array)})

    def integers(self, values: Sequence[int]) -> ir.Value:
        """A constant of int64 [n]."""
        return self.constant(np.array(values, np.int64))

    def constant_like(
        self, values: Sequence[float], like: ir.Value, *, scalar: bool = False
    ) -> ir.Value:
        """Numbers in the type of ``like``, whether that is known or not."""
        array = np.array(values[0] if scalar else values)
        if like.dtype is not None:
            with np.errstate(over="ignore"):
                return self.constant(array.astype(like.dtype.numpy()))
        return self.op("CastLike", [self.constant(array.astype(np.float32)), like])

    def op(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, object] | None = None,
    ) -> ir.Value:
        """Add a node in front of this one; returns its first output."""
        node = ir.node(op_type, inputs, attributes or {})  # type: ignore[arg-type]
        node.version = self.version
        self._new.append(node)
        return node.outputs[0]

    def set_inputs(self, *inputs: ir.Value | None) -> None:
        """Give the node other inputs; those left out at the end go."""
        kept = list(inputs)
        while kept and kept[-1] is None:
            kept.pop()
        self.node.resize_inputs(len(kept))
        for index, value in enumerate(kept):
            self.node.replace_input_with(index, value)

    def replace(self, *outputs: ir.Value) -> None:
        """Let these values take the place of the node's outputs."""
        self._outputs = list(outputs)

    def refuse(self, reason: str) -> UnsupportedError:
        """The error to raise where there is no equivalent."""
        return UnsupportedError(
            f"{self.label} cannot be brought to opset {self.version}: {reason}",
            hint="export the model again with a newer opset",
        )

    def finish(self, graph: ir.Graph) -> None:
        """Put the new nodes into ``graph``."""
        for number, node in enumerate(self._new):
            node.name = f"{self.node.name or self.node.op_type}/opset{self.version}_{number}"
            for value in node.outputs:
                value.name = f"{self.node.outputs[0].name}/opset{self.version}_{number}"
        if self._outputs is None:
            self.node.version = self.version
            graph.insert_before(self.node, self._new)
            return
        used = self.node.outputs[len(self._outputs) :]
        if any(value.uses() or value.is_graph_output() for value in used):
            raise self.refuse("its further outputs are used")
        ir.convenience.replace_nodes_and_values(
            graph,
            self.node,
            [self.node],
            self._new,
            self.node.outputs[: len(self._outputs)],
            self._outputs,
        )
