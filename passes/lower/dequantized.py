"""A weight behind a DequantizeLinear, in the form that its reader likes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis.conv_shape import ConvShape
from bitfold.passes.core.context import Context
from bitfold.passes.core.rewire import new_initializer
from bitfold.passes.lower.neutral import NeutralWeight
from bitfold.passes.lower.stored import HALF_SCALES, integer_initializer
from bitfold.passes.lower.surgery import Builder

Form = Literal["rows", "turned", "kernels"]
"""``rows`` [N, K], ``turned`` [K, N], or ``kernels`` [N, C, *kernel] of a convolution."""

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray | None]


@dataclass
class DequantizedWeight:
    """One weight's initializers and float values, each form made when first asked for.

    Attributes:
        bits: bits that its integers are stored with.
        stem: what names begin with.
    """

    graph: ir.Graph
    context: Context
    weight: NeutralWeight
    bits: int
    stem: str
    made: dict[Form, list[ir.Value]] = field(default_factory=dict)
    values: dict[Form, ir.Value] = field(default_factory=dict)

    @property
    def block(self) -> int:
        """Inputs that share a scale, at most all of them."""
        return min(self.weight.group_size, self.weight.codes.shape[1])

    @property
    def half_scales(self) -> bool:
        """Whether the graph's DequantizeLinear can make float32 of float16 scales."""
        return self.graph.opset_imports.get("", 0) >= HALF_SCALES

    @property
    def to_float(self) -> dict[str, Any]:
        """DequantizeLinear's attribute for a float32 result, where the scales do not settle it."""
        return {"output_dtype": int(ir.DataType.FLOAT)} if self.half_scales else {}

    def rows(self) -> list[ir.Value]:
        """Integers [N, K], scales [N, G] and, where there are any, zero points [N, G]."""
        weight = self.weight
        return self._stored("rows", (weight.levels(), weight.scales, weight.zero_points))

    def value(self, form: Form, conv: ConvShape | None = None) -> ir.Value:
        """The float weight; a form is made once."""
        if form not in self.values:
            axis, block = (0 if form == "turned" else 1), self.block
            inputs = self.made.get(form)
            if inputs is None:
                arrays = self._arranged(form, conv)
                if arrays[1].ndim == 1:
                    axis, block = 1 - axis, 0
                inputs = self._stored(form, arrays)
            build = Builder(f"{self.stem}.{form}")
            value = build(
                "DequantizeLinear",
                *inputs,
                axis=axis,
                block_size=block,
                **self.to_float,
            )
            value.dtype, value.shape = ir.DataType.FLOAT, inputs[0].shape
            build.place(self.graph[0])
            self.values[form] = value
        return self.values[form]

    def _arranged(self, form: Form, conv: ConvShape | None) -> Arrays:
        """The arrays of a form; scales [N] where each output channel has one."""
        levels, parts = self.weight.levels(), (self.weight.scales, self.weight.zero_points)
        if form == "turned":
            levels = levels.T
        if form == "kernels":
            assert conv is not None, "kernels are those of a convolution"
            levels = conv.kernels(levels)
        if parts[0].shape[1] == 1 and form != "rows":
            # Not for rows: ORT 1.31 moves a Transpose over these, forgets output_dtype, and makes a
            # MatMulNBits of what is then a matmul with turned weights.
            scales, zeros = parts
            zeros = None if zeros is None else zeros.reshape(-1)
            return levels, scales.reshape(-1).astype(np.float32), zeros
        turned: list[np.ndarray | None] = list(parts)
        if form == "turned":
            turned = [None if each is None else each.T for each in parts]
        elif conv is not None and form == "kernels":
            # Groups lie within a tap: [N, taps * G] is [N, *kernel, G].
            order = conv.to_channels_first
            turned = [
                None if each is None else each.reshape(conv.n, *conv.kernel, -1).transpose(order)
                for each in parts
            ]
        return levels, turned[0], turned[1]  # type: ignore[return-value]  # scales are there

    def _stored(self, form: Form, arrays: Arrays) -> list[ir.Value]:
        if form not in self.made:
            levels, scales, zeros = arrays
            if not self.half_scales:
                scales = scales.astype(np.float32)
            stem = self.stem + ("" if form == "rows" else f".{form}")
            self.made[form] = [
                self._integers(levels, f"{stem}.integers"),
                new_initializer(self.graph, self.context, scales, f"{stem}.stored_scales"),
            ]
            if zeros is not None:
                self.made[form].append(self._integers(zeros, f"{stem}.stored_zero_points"))
        return self.made[form]

    def _integers(self, levels: np.ndarray, name: str) -> ir.Value:
        levels = np.ascontiguousarray(levels)
        return integer_initializer(self.graph, self.context, levels, self.bits, name)
