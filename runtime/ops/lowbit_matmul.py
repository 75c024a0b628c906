"""``LowBitMatMul``: float rows times a packed low-bit weight; see the package's docstring."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from bitfold.runtime.ops.body import Body
from bitfold.runtime.ops.packed import PackedWeight
from bitfold.runtime.ops.quantize_activation import quantized
from bitfold.runtime.ops.swiglu import gated

INPUTS = ["X", "packed", "scales", "zero_points", "table", "bias"]


@dataclass(frozen=True)
class LowBitMatMul:
    """One configuration of the operator.

    Attributes:
        weight: the packed weight's shape and format.
        acts: ``int8`` or ``none``.
        act_group_size: inputs that share an activation scale.
        bias: whether the bias input is there.
        activation: ``none`` or ``swiglu``.
    """

    weight: PackedWeight
    acts: str
    act_group_size: int
    bias: bool
    activation: str

    def attributes(self) -> dict[str, int | str]:
        """The attributes of a node."""
        return {
            **self.weight.attributes(),
            "acts": self.acts,
            "act_group_size": self.act_group_size,
            "activation": self.activation,
        }

    def function(self) -> ir.Function:
        """The function body for this configuration."""
        body = Body(INPUTS)
        x, packed, scales, zeros, table, bias = body.inputs
        weight = self.weight.unpacked(body, [packed, scales, zeros, table])
        if self.acts == "int8":
            x = quantized(body, x, self.weight.k, self.act_group_size)
        y = body("MatMul", x, body.transpose(weight, 1, 0))
        if self.bias:
            y = body("Add", y, bias)
        if self.activation == "swiglu":
            y = gated(body, y)
        acts = f"a{self.act_group_size}" if self.acts == "int8" else "float"
        parts = [self.weight.overload(), acts]
        parts += ["bias"] * self.bias + [self.activation] * (self.activation != "none")
        return body.function("LowBitMatMul", "_".join(parts), y, self.attributes())
