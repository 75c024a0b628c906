"""Lowering matmuls to bitfold's own operators: pack weights once, take in what follows."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis.sites import Site, find_sites, input_at
from bitfold.passes.core.context import Context
from bitfold.passes.core.rewire import new_initializer
from bitfold.passes.lower.epilogue import array_of, replace_chain, take_place
from bitfold.passes.lower.matmul_tail import tail_of
from bitfold.passes.lower.native_conv import ConvLowering
from bitfold.passes.lower.neutral import rounding_of
from bitfold.passes.lower.packing import pack_weight
from bitfold.runtime.ops.body import call
from bitfold.runtime.ops.lowbit_gather import lowbit_gather
from bitfold.runtime.ops.lowbit_matmul import LowBitMatMul
from bitfold.runtime.ops.packed import PackedWeight


def lower_to_native(model: ir.Model, context: Context) -> bool:
    """Rewrite every quantized site as a native operator; return whether there was any."""
    lowering, convolutions = NativeLowering(model, context), ConvLowering(model, context)
    sites = [site for site in find_sites(model) if site.quantized is not None]
    for done, site in enumerate(sites):
        context.progress(f"packing {site.name}", done / len(sites))
        if site.kind == "gather":
            lowering.gather(site)
        elif site.kind == "conv":
            convolutions.conv(site)
        else:
            lowering.matmul(site)
    return bool(sites)


@dataclass
class NativeLowering:
    """Replaces sites one by one; a weight that several sites share is packed once."""

    model: ir.Model
    context: Context
    packed: dict[tuple[ir.Value, bool], list[ir.Value | None]] = field(default_factory=dict)

    def matmul(self, site: Site) -> None:
        """Replace a MatMul or Gemm, its input's quantizer and its tail by a LowBitMatMul."""
        tail = tail_of(site)
        rounding = rounding_of(site)
        if rounding is not None and rounding.bits != 8:
            rounding = None  # stays a node of its own
        weight = self._weight(site, paired=tail.activation == "swiglu")
        packed = self._packed(site, weight)
        operator = LowBitMatMul(
            weight,
            "none" if rounding is None else "int8",
            weight.k if rounding is None else rounding.group_size,
            bias=tail.bias is not None,
            activation=tail.activation,
            residual=tail.residual is not None,
            splits=tail.splits,
        )
        data = site.data if rounding is None else rounding.source
        inputs = [data, *packed, tail.bias] + [tail.residual] * operator.residual
        node = call(self.model, operator.function(), inputs, operator.attributes(), site.name)
        replace_chain(tail.nodes, node)
        taken = tail.taken()
        with_tail = f" with {', '.join(taken)}" if taken else ""
        self.context.entry.changed(site.name, f"LowBitMatMul {weight.overload()}{with_tail}")

    def gather(self, site: Site) -> None:
        """Replace a Gather by a LowBitGather."""
        weight = self._weight(site, paired=False)
        inputs = [*self._packed(site, weight), site.data]
        node = call(self.model, lowbit_gather(weight), inputs, weight.attributes(), site.name)
        take_place(site.node, site.node.outputs[0], node)
        self.context.entry.changed(site.name, f"LowBitGather {weight.overload()}")

    def _weight(self, site: Site, paired: bool) -> PackedWeight:
        dequantize = site.quantized
        assert dequantize is not None, "only quantized sites are lowered"
        n, k = site.shape
        attributes = dequantize.attributes
        return PackedWeight(
            n,
            k,
            attributes.get_int("bits", 8),
            attributes.get_int("group_size", k),
            zero_points=input_at(dequantize, 2) is not None,
            table=input_at(dequantize, 3) is not None,
            paired=paired,
        )

    def _packed(self, site: Site, weight: PackedWeight) -> list[ir.Value | None]:
        """The values packed, scales, zero_points and table of a site's weight."""
        key = (site.source, weight.paired)
        if key not in self.packed:
            dequantize = site.quantized
            assert dequantize is not None, "only quantized sites are lowered"
            codes, scales, zeros = (array_of(input_at(dequantize, each)) for each in range(3))
            assert codes is not None, "a DequantizeWeight has codes"
            assert scales is not None, "a DequantizeWeight has scales"
            stem = (site.source.name or site.name).removesuffix(".dequantized")
            stem += ".paired" * weight.paired
            packed = pack_weight(codes, scales, zeros, weight.bits, weight.paired)
            self.packed[key] = [
                self._initializer(f"{stem}.packed", packed.codes),
                self._initializer(f"{stem}.tiled_scales", packed.scales),
                None
                if packed.zero_points is None
                else self._initializer(f"{stem}.tiled_zero_points", packed.zero_points),
                input_at(dequantize, 3),
            ]
        return self.packed[key]

    def _initializer(self, name: str, array: np.ndarray) -> ir.Value:
        return new_initializer(self.model.graph, self.context, array, name)
