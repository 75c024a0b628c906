"""``LowBitConv``: a convolution with a packed low-bit weight; see the package's docstring."""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx_ir as ir

from bitfold.runtime.layouts.conv import ConvLayout
from bitfold.runtime.layouts.tiles import LAYOUT_VERSION
from bitfold.runtime.ops.body import Body
from bitfold.runtime.ops.packed import PackedWeight
from bitfold.runtime.ops.quantize_activation import quantized
from bitfold.runtime.ops.scale_floats import ScaleKind, factor_attribute

INPUTS = ["X", "packed", "scales", "zero_points", "table", "bias", "residual"]


@dataclass(frozen=True)
class LowBitConv:
    """One configuration of the operator.

    Attributes:
        n: output channels.
        c: input channels.
        groups: conv groups.
        kernel_shape: window, one or two axes, as in ``Conv``.
        strides: as in ``Conv``.
        pads: begins, then ends, as in ``Conv``.
        dilations: as in ``Conv``.
        bits: bits of a code.
        group_size: input channels that share a weight scale, as ``pack_conv_weight`` took it.
        zero_points: whether the zero_points input is there.
        table: whether the table input is there.
        acts: ``int8`` or ``none``; with one channel a conv group only ``none``.
        act_group_size: channels that share a pixel's scale: those of a conv group, or
            ``group_size`` where it divides them.
        bias: whether the bias input is there.
        activation: ``none``, ``relu``, ``clip`` or ``hardswish``.
        clip_min: least output of ``clip``.
        clip_max: largest output of ``clip``.
        out_scale: what the activation's output is multiplied by.
        out_shift: what is added to it then.
        residual: whether the residual input is there, which is added last.
        scale_kind: how the weight's scales are read.
        scale_factor: what ``e4m3`` scales are multiplied by.
    """

    n: int
    c: int
    groups: int
    kernel_shape: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    bits: int
    group_size: int
    zero_points: bool = False
    table: bool = False
    acts: str = "int8"
    act_group_size: int = 0
    bias: bool = False
    activation: str = "none"
    clip_min: float = 0.0
    clip_max: float = 0.0
    out_scale: float = 1.0
    out_shift: float = 0.0
    residual: bool = False
    scale_kind: ScaleKind = "float"
    scale_factor: float = 1.0

    @property
    def layout(self) -> ConvLayout:
        """How the weight is laid out."""
        taps = math.prod(self.kernel_shape)
        return ConvLayout(self.n, self.groups, taps, self.c // self.groups, self.group_size)

    @property
    def pixel_group(self) -> int:
        """``act_group_size``, 0 standing for all channels of a conv group."""
        return self.act_group_size or self.c // self.groups

    def attributes(self) -> dict[str, int | float | str | tuple[int, ...]]:
        """The attributes of a node."""
        return {
            "N": self.n,
            "C": self.c,
            "groups": self.groups,
            "kernel_shape": self.kernel_shape,
            "strides": self.strides,
            "pads": self.pads,
            "dilations": self.dilations,
            "bits": self.bits,
            "group_size": self.layout.packed_group_size,
            "layout": LAYOUT_VERSION,
            "acts": self.acts,
            "act_group_size": self.pixel_group,
            "activation": self.activation,
            "clip_min": float(self.clip_min),
            "clip_max": float(self.clip_max),
            **({"out_scale": float(self.out_scale)} if self.out_scale != 1 else {}),
            **({"out_shift": float(self.out_shift)} if self.out_shift != 0 else {}),
            **factor_attribute(self.scale_kind, self.scale_factor),
        }

    def function(self) -> ir.Function:
        """The function body for this configuration."""
        body = Body(INPUTS)
        x, packed, scales, zeros, table, bias, residual = body.inputs
        if self.acts == "int8":
            x = quantized(body, x, self.c, self.pixel_group, axis=1)
        y = body(
            "Conv",
            x,
            self._weight(body, [packed, scales, zeros, table]),
            *([bias] if self.bias else []),
            group=self.groups,
            kernel_shape=self.kernel_shape,
            strides=self.strides,
            pads=self.pads,
            dilations=self.dilations,
        )
        if self.activation == "relu":
            y = body("Relu", y)
        elif self.activation == "clip":
            y = body("Clip", y, body.floats(self.clip_min), body.floats(self.clip_max))
        elif self.activation == "hardswish":
            y = body("HardSwish", y)
        if self.out_scale != 1:
            y = body("Mul", y, body.floats(self.out_scale))
        if self.out_shift != 0:
            y = body("Add", y, body.floats(self.out_shift))
        if self.residual:
            y = body("Add", y, residual)
        return body.function("LowBitConv", self.overload(), y, self.attributes())

    def overload(self) -> str:
        """A name for the function body written for this configuration."""

        def axes(values: tuple[int, ...]) -> str:
            return "x".join(map(str, values))

        parts = [f"n{self.n}_c{self.c}_b{self.bits}_g{self.layout.packed_group_size}"]
        parts += [f"by{self.groups}"] * (self.groups != 1)
        parts += [f"k{axes(self.kernel_shape)}_s{axes(self.strides)}_p{axes(self.pads)}"]
        parts += [f"d{axes(self.dilations)}"] * (set(self.dilations) != {1})
        parts += ["z"] * self.zero_points + ["t"] * self.table
        parts += [self.scale_kind] * (self.scale_kind != "float")
        parts += [f"a{self.pixel_group}" if self.acts == "int8" else "float"]
        parts += ["bias"] * self.bias + [self.activation] * (self.activation != "none")
        if self.activation == "clip":
            parts += [f"{self.clip_min:.9g}_{self.clip_max:.9g}"]
        # All the digits of a float32: two bodies of one name would be one.
        parts += [f"times{self.out_scale:.9g}"] * (self.out_scale != 1)
        parts += [f"plus{self.out_shift:.9g}"] * (self.out_shift != 0)
        parts += ["residual"] * self.residual
        return "_".join(parts)

    def _weight(self, body: Body, inputs: list[ir.Value]) -> ir.Value:
        """The float weight [N, C / groups, *kernel_shape] from the packed inputs."""
        layout = self.layout
        rows = PackedWeight(
            layout.banks * layout.bank_rows,
            layout.k,
            self.bits,
            layout.packed_group_size,
            self.zero_points,
            self.table,
            scale_kind=self.scale_kind,
        ).unpacked(body, inputs)
        if layout.bank_rows * layout.banks != self.n:
            rows = body.reshape(rows, layout.banks, layout.bank_rows, layout.k)
            rows = body.slice(rows, 1, 0, self.n // layout.banks)
        weight = body.reshape(rows, self.n, layout.taps, layout.padded_cg)
        if layout.padded_cg != layout.cg:
            weight = body.slice(weight, 2, 0, layout.cg)
        first = body.transpose(weight, 0, 2, 1)
        return body.reshape(first, self.n, layout.cg, *self.kernel_shape)
