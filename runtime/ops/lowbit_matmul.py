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
INPUTS += ["hadamard", "act_scale", "low_rank_down", "low_rank_up", "input_scales"]
INPUTS += ["column_norms"]


ACT_BITS = (8, 4, 3, 2, 1)
"""Bits of the activations that it quantizes on the fly."""

MOST_RANK = 512
"""The largest rank of its low-rank branch."""


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
        n_group_size: outputs that share input_scales; 0 where there are none.
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
    n_group_size: int = 0

    def attributes(self) -> dict[str, Any]:
        """The attributes of a node."""
        return {
            **self.weight.attributes(),
            "acts": self.acts,
            "act_group_size": self.act_group_size,
            "activation": self.activation,
            **({"splits": self.splits} if self.splits else {}),
            **self.prologue.attributes(),
            **({"n_group_size": self.n_group_size} if self.n_group_size else {}),
        }

    def function(self) -> ir.Function:
        """The function body for this configuration."""
        body = Body(INPUTS)
        x, packed, scales, zeros, table, bias, residual, gain, hadamard = body.inputs[:9]
        act_scale, down, up, input_scales, norms = body.inputs[9:]
        weight = self.weight.unpacked(body, [packed, scales, zeros, table])
        x = self.prologue.prepared(body, x, gain, hadamard, norms, self.weight.k)
        y = self._product(body, x, weight, act_scale, input_scales)
        if self.low_rank:
            thin = body("MatMul", x, body.transpose(body.to_float(down), 1, 0))
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
        acts = "float" if self.acts == "none" else f"a{self.act_group_size}"
        acts += f"_{self.acts}" if self.acts not in ("none", "int8") else ""
        parts = [self.weight.overload(), acts]
        parts += ["bias"] * self.bias + [self.activation] * (self.activation != "none")
        parts += ["residual"] * self.residual
        parts += ["static"] * self.act_scale + self.prologue.overload()
        parts += ["low_rank"] * self.low_rank
        parts += [f"i{self.n_group_size}"] * bool(self.n_group_size)
        parts += ["split", *map(str, self.splits)] if self.splits else []
        return body.function("LowBitMatMul", "_".join(parts), outputs, self.attributes())

    def _product(
        self, body: Body, x: ir.Value, weight: ir.Value, act_scale: ir.Value, scales: ir.Value
    ) -> ir.Value:
        """Rows [..., K], scaled and quantized, times the weight [N, K]."""
        n, k = self.weight.n, self.weight.k
        size = self.n_group_size or n
        products = []
        for block, start in enumerate(range(0, n, size)):
            rows, part = x, weight
            if self.n_group_size:
                row = body.slice(scales, 0, block, block + 1)
                rows = body("Mul", x, body.reshape(row, k))
            if size < n:
                part = body.slice(weight, 0, start, min(start + size, n))
            if self.act_scale:
                rows = quantized_with(body, rows, act_scale)
            elif self.acts != "none":
                bits = int(self.acts.removeprefix("int"))
                rows = quantized(body, rows, k, self.act_group_size, bits)
            products.append(body("MatMul", rows, body.transpose(part, 1, 0)))
        return products[0] if len(products) == 1 else body("Concat", *products, axis=-1)

    def _activated(self, body: Body, y: ir.Value) -> ir.Value:
        if self.activation == "swiglu":
            return gated(body, y)
        if self.activation == "relu":
            return body("Relu", y)
        if self.activation in ("gelu", "gelu_tanh"):
            return body("Gelu", y, approximate="tanh" if self.activation == "gelu_tanh" else "none")
        return y
