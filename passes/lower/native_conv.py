"""Lowering convolutions to ``bitfold.LowBitConv``, with what follows them taken in."""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir

from bitfold.passes.analysis.conv_shape import ConvShape
from bitfold.passes.analysis.sites import Site, input_at
from bitfold.passes.core.context import Context
from bitfold.passes.lower.conv_tail import tail_of
from bitfold.passes.lower.epilogue import replace_chain
from bitfold.passes.lower.neutral import rounding_of, scale_options, weight_of
from bitfold.passes.lower.packed_values import packed_values
from bitfold.runtime.layouts.conv import pack_conv_weight
from bitfold.runtime.ops.body import call
from bitfold.runtime.ops.lowbit_conv import LowBitConv


@dataclass(frozen=True)
class PackedInputs:
    """The values packed, scales, zero_points and table, and the group size of the packed form."""

    values: tuple[ir.Value | None, ...]
    group_size: int


@dataclass
class ConvLowering:
    """Replaces convolutions one by one; a weight that several share is packed once."""

    model: ir.Model
    context: Context
    packed: dict[tuple[ir.Value, int], PackedInputs] = field(default_factory=dict)

    def conv(self, site: Site) -> None:
        """Replace a Conv, its input's quantizer and its tail by a LowBitConv."""
        shape, dequantize = site.conv, site.quantized
        assert shape is not None, "the site is a convolution"
        assert dequantize is not None, "only quantized sites are lowered"
        tail = tail_of(site)
        rounding = rounding_of(site)
        if rounding is not None and (rounding.bits != 8 or rounding.axis != 1):
            rounding = None  # stays a node of its own
        packed = self._packed(site, shape)
        bias = input_at(site.node, 2)
        operator = LowBitConv(
            shape.n,
            shape.channels,
            shape.groups,
            shape.kernel,
            **window_of(site.node, len(shape.kernel)),
            bits=dequantize.attributes.get_int("bits", 8),
            group_size=packed.group_size,
            zero_points=packed.values[2] is not None,
            table=packed.values[3] is not None,
            acts="none" if rounding is None else "int8",
            act_group_size=0 if rounding is None else rounding.group_size,
            bias=bias is not None,
            activation=tail.activation,
            clip_min=tail.low,
            clip_max=tail.high,
            out_scale=tail.scale,
            out_shift=tail.shift,
            residual=tail.residual is not None,
            **scale_options(dequantize),
        )
        data = site.data if rounding is None else rounding.source
        inputs = [data, *packed.values, bias] + [tail.residual] * operator.residual
        node = call(self.model, operator.function(), inputs, operator.attributes(), site.name)
        replace_chain(tail.nodes, node)
        taken = f" with {', '.join(tail.taken())}" if tail.taken() else ""
        self.context.entry.changed(site.name, f"LowBitConv {operator.overload()}{taken}")

    def _packed(self, site: Site, shape: ConvShape) -> PackedInputs:
        # The same weight in fewer conv groups is tiled in another way.
        key = (site.source, shape.groups)
        if key not in self.packed:
            weight = weight_of(site)
            packed = pack_conv_weight(
                weight.codes,
                weight.scales,
                weight.zero_points,
                weight.bits,
                shape.groups,
                shape.taps,
                shape.cg,
                weight.group_size,
            )
            values = packed_values(self.model.graph, self.context, site, packed, "")
            self.packed[key] = PackedInputs(values, packed.group_size)
        return self.packed[key]


def window_of(conv: ir.Node, rank: int) -> dict[str, tuple[int, ...]]:
    """How a Conv moves its window: strides, pads and dilations, the defaults filled in."""
    attributes = conv.attributes
    ones, zeros = (1,) * rank, (0,) * (2 * rank)
    valid = attributes.get_string("auto_pad", "NOTSET") == "VALID"
    return {
        "strides": tuple(attributes.get_ints("strides", ones)),
        "pads": zeros if valid else tuple(attributes.get_ints("pads", zeros)),
        "dilations": tuple(attributes.get_ints("dilations", ones)),
    }
