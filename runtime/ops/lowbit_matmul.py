"""``LowBitMatMul``: float rows times a packed low-bit weight; see the package's docstring."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from bitfold.runtime.ops.body import Body
from bitfold.runtime.ops.packed import PackedWeight
from bitfold.runtime.ops.prologue import NO_PROLOGUE, Prologue
from bitfold.runtime.ops.quantize_activation import quantized, quantized_with
from bitfold.runtime.ops.swiglu import gated

INPUTS = ["X", "packed", "scales", "zero_points", "table", "bias", "residual", "norm_gain"]
INPUTS += ["hadamard", "act_scale", "low_rank_down", "low_rank_up"]


ACT_BITS = (8, 4, 3, 2, 1)
"""Bits of the activations that it quantizes on the fly."""


@dataclass(frozen=True)
class LowBitMatMul:
    """One configuration of the operator.

    Attributes:
        weight: the packed weight's shape and format.
        acts: ``int8``, ``int4``, ``int3``, ``int2``, ``int1`` or ``none``.
        act_group_size: inputs that share an activation scale.
        bias: whether the bias input is there.
        activation: ``none``, ``swiglu``, ``relu``, ``gelu`` or ``gelu_tanh``.
        residual: whether the residual input is there.
        splits: Y's columns for each of several outputs; empty for one output.
        prologue: what is done to X first.
        act_scale: whether the input of that name is there.
        low_rank: whether low_rank_down and low_rank_up are there.
    """

    weight: PackedWeight
    acts: str
    act_group_size: int
    bias: bool
    activation: str = "none"
    residual: bool = False
    splits: tuple[int, ...] = ()
    prologue: Prologue = NO_PROLOGUE
    act_scale: bool = False
    low_rank: bool = False

    def attributes(self) -> dict[str, Any]:
        """The attributes of a node."""
        return {
            **self.weight.attributes(),
            "acts": self.acts,
            "act_group_size": self.act_group_size,
            "activation": self.activation,
            **({"splits": self.splits} if self.splits else {}),
            **self.prologue.attributes(),
        }

    def function(self) -> ir.Function:
        """The function body for this configuration."""
        body = Body(INPUTS)
        x, packed, scales, zeros, table, bias, residual, gain, hadamard = body.inputs[:9]
        act_scale, down, up = body.inputs[9:]
        weight = self.weight.unpacked(body, [packed, scales, zeros, table])
        x = prepared = self.prologue.prepared(body, x, gain, hadamard)
        bits = 0 if self.acts == "none" else int(self.acts.removeprefix("int"))
        if self.act_scale:
            x = quantized_with(body, x, act_scale)
        elif bits:
            x = quantized(body, x, self.weight.k, self.act_group_size, bits)
        y = body("MatMul", x, body.transpose(weight, 1, 0))
        if self.low_rank:
            thin = body("MatMul", prepared, body.transpose(body.to_float(down), 1, 0))
            thin = body("MatMul", thin, body.transpose(body.to_float(up), 1, 0))
            y = body("Add", y, thin)
        if self.bias:
            y = body("Add", y, bias)
        y = self._activated(body, y)
        if self.residual:
            y = body("Add", y, residual)
        outputs: list[ir.Value] = [y]
        if self.splits:
            sizes = body.ints(*self.splits)
            outputs = list(
                body.op_multi_out("Split", [y, sizes], {"axis": -1}, num_outputs=len(self.splits))
            )
        acts = f"a{self.act_group_size}" if bits else "float"
        acts += f"_{self.acts}" if 0 < bits < 8 else ""
        parts = [self.weight.overload(), acts]
        parts += ["bias"] * self.bias + [self.activation] * (self.activation != "none")
        parts += ["residual"] * self.residual
        parts += ["static"] * self.act_scale + self.prologue.overload()
        parts += ["low_rank"] * self.low_rank
        parts += ["split", *map(str, self.splits)] if self.splits else []
        return body.function("LowBitMatMul", "_".join(parts), outputs, self.attributes())

    def _activated(self, body: Body, y: ir.Value) -> ir.Value:
        if self.activation == "swiglu":
            return gated(body, y)
        if self.activation == "relu":
            return body("Relu", y)
        if self.activation in ("gelu", "gelu_tanh"):
            return body("Gelu", y, approximate="tanh" if self.activation == "gelu_tanh" else "none")
        return y
