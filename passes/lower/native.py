"""Lowering matmuls to bitfold's own operators: pack weights once, take in what is around."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis.sites import Site, find_sites, input_at
from bitfold.passes.core.context import Context
from bitfold.passes.core.rewire import shared_initializer
from bitfold.passes.lower.epilogue import array_of, replace_chain, take_place
from bitfold.passes.lower.low_rank import LowRank
from bitfold.passes.lower.masked_weight import kept_weights, masked_share
from bitfold.passes.lower.matmul_head import head_of
from bitfold.passes.lower.matmul_tail import tail_of
from bitfold.passes.lower.native_conv import ConvLowering
from bitfold.passes.lower.neutral import rounding_of, scale_options, weight_of
from bitfold.passes.lower.packed_values import packed_values
from bitfold.passes.lower.packing import pack_weight
from bitfold.passes.lower.site_input import SiteInput, input_of
from bitfold.runtime.ops.body import call
from bitfold.runtime.ops.lowbit_gather import lowbit_gather
from bitfold.runtime.ops.lowbit_matmul import ACT_BITS, LowBitMatMul
from bitfold.runtime.ops.packed import PackedWeight


def lower_to_native(model: ir.Model, context: Context, masked: float = 0.0) -> bool:
    """Rewrite every quantized site as a native operator; return whether there was any.

    ``masked`` is that of the pass ``lower``.
    """
    sites = [site for site in find_sites(model) if site.quantized is not None]
    looked_up = frozenset(site.source for site in sites if site.kind == "gather")
    lowering = NativeLowering(model, context, masked, looked_up)
    convolutions = ConvLowering(model, context)
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
    masked: float
    looked_up: frozenset[ir.Value]
    packed: dict[tuple[ir.Value, bool, bool], tuple[ir.Value | None, ...]] = field(
        default_factory=dict
    )

    def matmul(self, site: Site) -> None:
        """Replace a MatMul or Gemm, its head, input's quantizer and tail by a LowBitMatMul."""
        rounding = rounding_of(site)
        if rounding is not None and rounding.bits not in ACT_BITS:
            rounding = None  # stays a node of its own
        given = input_of(site, rounding)
        tail = tail_of(site, given.value)
        head = head_of(site, given, tail.low_rank)
        weight = self._weight(site, paired=tail.activation == "swiglu")
        # Bit planes, for activations of fewer bits, are read out of dense bytes.
        share = self._masked_share(site) if rounding is None or rounding.bits == 8 else math.inf
        weight = replace(weight, masked=share <= self.masked)
        packed = self._packed(site, weight)
        act_scale = None if rounding is None else rounding.scale
        operator = LowBitMatMul(
            weight,
            "none" if rounding is None else f"int{rounding.bits}",
            weight.k if rounding is None else rounding.group_size,
            bias=tail.bias is not None,
            activation=tail.activation,
            residual=tail.residual is not None,
            splits=tail.splits,
            prologue=head.prologue,
            act_scale=act_scale is not None,
            low_rank=tail.low_rank is not None,
            n_group_size=0 if given.scales is None else weight.n,
        )
        inputs = [head.source, *packed, tail.bias, tail.residual, head.gain, head.base, act_scale]
        inputs += [*self._factors(site, tail.low_rank), self._input_scales(site, given)]
        while inputs[-1] is None:
            inputs.pop()
        node = call(self.model, operator.function(), inputs, operator.attributes(), site.name)
        replace_chain(tail.nodes, node)
        taken = head.taken() + given.taken() + tail.taken()
        taken += [f"{share:.0%} of the dense bytes"] * weight.masked
        with_tail = f" with {', '.join(taken)}" if taken else ""
        self.context.entry.changed(site.name, f"LowBitMatMul {weight.overload()}{with_tail}")

    def gather(self, site: Site) -> None:
        """Replace a Gather by a LowBitGather."""
        weight = self._weight(site, paired=False)
        inputs = [*self._packed(site, weight), site.data]
        node = call(self.model, lowbit_gather(weight), inputs, weight.attributes(), site.name)
        take_place(site.node, site.node.outputs[0], node)
        self.context.entry.changed(site.name, f"LowBitGather {weight.overload()}")

    def _factors(self, site: Site, low_rank: LowRank | None) -> list[ir.Value | None]:
        """The values of a low-rank branch's D and U."""
        if low_rank is None:
            return [None, None]
        return [
            self._beside(site, factor, name)
            for factor, name in zip(
                low_rank.factors(), ("low_rank_down", "low_rank_up"), strict=True
            )
        ]

    def _input_scales(self, site: Site, given: SiteInput) -> ir.Value | None:
        """The value [1, K] of scales of a site's input."""
        scales = array_of(given.scales)
        return None if scales is None else self._beside(site, scales[None], "input_scales")

    def _beside(self, site: Site, array: np.ndarray, name: str) -> ir.Value:
        """An initializer named after the site's weight, which sites that share it share too."""
        stem = (site.source.name or site.name).removesuffix(".dequantized")
        return shared_initializer(self.model.graph, self.context, array, f"{stem}.{name}")

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
            **scale_options(dequantize),
        )

    def _masked_share(self, site: Site) -> float:
        """Bytes of the masked layout as a share of the dense ones; inf where it cannot be taken."""
        if self.masked <= 0 or site.source in self.looked_up:
            return math.inf
        neutral = weight_of(site)
        kept = kept_weights(neutral)
        return math.inf if kept is None else masked_share(kept, neutral.bits)

    def _packed(self, site: Site, weight: PackedWeight) -> tuple[ir.Value | None, ...]:
        """The values packed, scales, zero_points and table of a site's weight."""
        key = (site.source, weight.paired, weight.masked)
        if key not in self.packed:
            neutral = weight_of(site)
            packed = pack_weight(
                neutral.codes,
                neutral.scales,
                neutral.zero_points,
                weight.bits,
                weight.paired,
                kept_weights(neutral) if weight.masked else None,
            )
            suffix = ".paired" * weight.paired + ".masked" * weight.masked
            self.packed[key] = packed_values(self.model.graph, self.context, site, packed, suffix)
        return self.packed[key]
