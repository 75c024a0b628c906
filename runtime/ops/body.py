"""Write function bodies: stock ONNX ops that say what a ``bitfold`` operator computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from bitfold.runtime.ops import DOMAIN, VERSION

OPSET = 23
"""The version of the standard operators that bodies are written in."""


class Body(ir.tape.Tape):
    """Collects the nodes of one function.

    Example::

        body = Body(["X"])
        doubled = body("Mul", body.inputs[0], body.floats(2.0))
        function = body.function("Double", "", doubled, {})
    """

    def __init__(self, inputs: Sequence[str]) -> None:
        super().__init__()
        self.inputs = [ir.Value(name=name) for name in inputs]

    def __call__(self, op: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """Add a node of the standard domain and return its one output."""
        return self.op(op, inputs, attributes)

    def ints(self, *values: int) -> ir.Value:
        """A constant int64 vector."""
        return self("Constant", value_ints=list(values))

    def floats(self, value: float) -> ir.Value:
        """A constant float32 scalar."""
        return self("Constant", value_float=value)

    def float_attribute(self, name: str) -> ir.Value:
        """A float32 scalar: the attribute ``name`` of the node that calls the function."""
        return self("Constant", value_float=ir.RefAttr("value_float", name, ir.AttributeType.FLOAT))

    def bytes(self, values: np.ndarray) -> ir.Value:
        """A constant uint8 array."""
        return self("Constant", value=ir.tensor(values.astype(np.uint8)))

    def to_float(self, value: ir.Value) -> ir.Value:
        """Cast to float32."""
        return self("Cast", value, to=ir.DataType.FLOAT)

    def reshape(self, value: ir.Value, *dims: int) -> ir.Value:
        """Reshape to fixed dimensions (-1 for the rest)."""
        return self("Reshape", value, self.ints(*dims))

    def transpose(self, value: ir.Value, *perm: int) -> ir.Value:
        """Permute the axes."""
        return self("Transpose", value, perm=list(perm))

    def slice(self, value: ir.Value, axis: int, start: int, stop: int) -> ir.Value:
        """Elements ``start`` to ``stop`` of one axis."""
        return self("Slice", value, self.ints(start), self.ints(stop), self.ints(axis))

    def pad_last(self, value: ir.Value, count: int) -> ir.Value:
        """Append ``count`` zeros to the last axis."""
        return self("Pad", value, self.ints(0, count), None, self.ints(-1)) if count else value

    def function(
        self,
        name: str,
        overload: str,
        outputs: ir.Value | Sequence[ir.Value],
        attributes: Mapping[str, Any],
    ) -> ir.Function:
        """Close the body: a function of the ``bitfold`` domain that returns ``outputs``.

        ``attributes`` names what nodes that call it carry for the kernels; the body itself is
        written for one overload and reads none of them but by :meth:`float_attribute`.
        """
        values = [each for node in self.nodes for each in node.outputs]
        for index, value in enumerate(values):
            value.name = f"v{index}"
        results = [outputs] if isinstance(outputs, ir.Value) else list(outputs)
        for index, output in enumerate(results):
            output.name = f"Y{index}" if len(results) > 1 else "Y"
        graph = ir.Graph(
            self.inputs, results, nodes=self.nodes, opset_imports={"": OPSET}, name=name
        )
        kinds = {
            int: ir.AttributeType.INT,
            str: ir.AttributeType.STRING,
            float: ir.AttributeType.FLOAT,
            tuple: ir.AttributeType.INTS,
        }
        declared = [ir.Attr(key, kinds[type(each)], None) for key, each in attributes.items()]
        return ir.Function(DOMAIN, name, overload, graph=graph, attributes=declared)


def call(
    model: ir.Model,
    function: ir.Function,
    inputs: Sequence[ir.Value | None],
    attributes: Mapping[str, Any],
    name: str,
) -> ir.Node:
    """A node that calls ``function``, which is added to the model if it is not there yet."""
    model.functions.setdefault(function.identifier(), function)
    model.graph.opset_imports[DOMAIN] = VERSION
    return ir.Node(
        DOMAIN,
        function.name,
        inputs,
        ir.convenience.convert_attributes(attributes),
        overload=function.overload,
        num_outputs=len(function.outputs),
        name=name,
    )
