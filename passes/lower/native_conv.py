"""Lowering convolutions to ``bitfold.LowBitConv``, with what follows them taken in."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis.conv_shape import ConvShape
from bitfold.passes.analysis.sites import Site, input_at
from bitfold.passes.core.context import Context
from bitfold.passes.core.rewire import new_initializer
from bitfold.passes.lower.conv_tail import tail_of
from bitfold.passes.lower.epilogue import array_of, is_op, replace_chain
from bitfold.runtime.layouts.conv import pack_conv_weight
from bitfold.runtime.ops import DOMAIN
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
        data, act_group = rounded_input(site)
        packed = self._packed(site, shape, dequantize)
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
            acts="none" if act_group is None else "int8",
            act_group_size=act_group or 0,
            bias=bias is not None,
            activation=tail.activation,
            clip_min=tail.low,
            clip_max=tail.high,
            out_scale=tail.scale,
            out_shift=tail.shift,
            residual=tail.residual is not None,
        )
        inputs = [data, *packed.values, bias] + [tail.residual] * operator.residual
        node = call(self.model, operator.function(), inputs, operator.attributes(), site.name)
        replace_chain(tail.nodes, node)
        taken = f" with {', '.join(tail.taken())}" if tail.taken() else ""
        self.context.entry.changed(site.name, f"LowBitConv {operator.overload()}{taken}")

    def _packed(self, site: Site, shape: ConvShape, dequantize: ir.Node) -> PackedInputs:
        # The same weight in fewer conv groups is tiled in another way.
        key = (site.source, shape.groups)
        if key not in self.packed:
            codes, scales, zeros = (array_of(input_at(dequantize, each)) for each in range(3))
            assert codes is not None, "a DequantizeWeight has codes"
            assert scales is not None, "a DequantizeWeight has scales"
            packed = pack_conv_weight(
                codes,
                scales,
                zeros,
                dequantize.attributes.get_int("bits", 8),
                shape.groups,
                shape.taps,
                shape.cg,
                dequantize.attributes.get_int("group_size", shape.k),
            )
            stem = (site.source.name or site.name).removesuffix(".dequantized")
            values = (
                self._initializer(f"{stem}.packed", packed.codes),
                self._initializer(f"{stem}.tiled_scales", packed.scales),
                None
                if packed.zero_points is None
                else self._initializer(f"{stem}.tiled_zero_points", packed.zero_points),
                input_at(dequantize, 3),
            )
            self.packed[key] = PackedInputs(values, packed.group_size)
        return self.packed[key]

    def _initializer(self, name: str, array: np.ndarray) -> ir.Value:
        return new_initializer(self.model.graph, self.context, array, name)


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


def rounded_input(site: Site) -> tuple[ir.Value, int | None]:
    """The convolution's float input, and the channels that share a scale if it is rounded."""
    data = site.data
    producer = data.producer()
    if producer is None or not is_op(producer, "QuantizeActivation", DOMAIN):
        return data, None
    attributes = producer.attributes
    if attributes.get_int("axis", -1) != 1 or attributes.get_int("bits", 8) != 8:
        return data, None
    source = producer.inputs[0]
    assert source is not None, "a QuantizeActivation has an input"
    return source, attributes.get_int("group_size", 0)
