"""Packed weights as initializers: what bitfold's operators read beside their data."""

from __future__ import annotations

import onnx_ir as ir

from bitfold.passes.analysis.sites import Site, input_at
from bitfold.passes.core.context import Context
from bitfold.passes.core.rewire import new_initializer
from bitfold.passes.lower.packing import PackedArrays
from bitfold.runtime.layouts.conv import PackedConv


def packed_values(
    graph: ir.Graph, context: Context, site: Site, packed: PackedArrays | PackedConv, suffix: str
) -> tuple[ir.Value | None, ...]:
    """Store a site's packed weight: the values packed, scales, zero_points and table.

    Args:
        suffix: tells apart how the same weight is packed.
    """
    dequantize = site.quantized
    assert dequantize is not None, "only quantized sites are lowered"
    stem = (site.source.name or site.name).removesuffix(".dequantized") + suffix
    zeros = packed.zero_points
    return (
        new_initializer(graph, context, packed.codes, f"{stem}.packed"),
        new_initializer(graph, context, packed.scales, f"{stem}.tiled_scales"),
        None
        if zeros is None
        else new_initializer(graph, context, zeros, f"{stem}.tiled_zero_points"),
        input_at(dequantize, 3),
    )
