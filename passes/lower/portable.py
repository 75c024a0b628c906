"""Lowering to standard ONNX: DequantizeLinear for weights, rounding of inputs written out.

Weights, and where their blocks lie:

==============================  ======================  ==========================================
weight                          stored as               why
==============================  ======================  ==========================================
matmul with rounded inputs      [K, N], blocks on 0     no Transpose at run time
matmul with float inputs        [N, K], blocks on 1     ORT makes the other form a MatMulNBits that
                                                        rounds inputs to int8, unasked
matmul that shares an embedding [N, K], blocks on 1     one copy for both
embedding                       [N, K] as INT8          Gather takes no INT4 or INT2; only the rows
                                                        that are looked up are dequantized
convolution                     [N, C, *kernel], on 1   no Transpose at run time
==============================  ======================  ==========================================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from bitfold.passes.analysis.sites import Site
from bitfold.passes.core.context import Context
from bitfold.passes.core.targets import stock_width
from bitfold.passes.lower.dequantized import DequantizedWeight
from bitfold.passes.lower.neutral import rounding_of, stock_weight_of, width_of
from bitfold.passes.lower.opset import require_opset
from bitfold.passes.lower.round_input import round_input
from bitfold.passes.lower.stored import IR_VERSIONS, OPSETS, TYPES, runs_int2
from bitfold.passes.lower.surgery import Builder, remove_dead
from bitfold.passes.opsets.convert import CANONICAL


@dataclass
class PortableLowering:
    """Replaces sites weight by weight; inputs that several sites share are rounded once."""

    model: ir.Model
    context: Context
    rounded: dict[ir.Node, ir.Value] = field(default_factory=dict)

    def lower(self, sites: Sequence[Site], remark: str = "") -> None:
        """Replace ``sites``, which share one weight.

        Args:
            remark: added to the report's line of each site.

        Raises:
            UnsupportedError: the graph's opset is too old.
        """
        weight = stock_weight_of(sites[0])
        width = width_of(weight.bits, weight.table)
        gathered = any(site.kind == "gather" for site in sites)
        bits = 8 if gathered else stock_width(width)
        version = self.model.graph.opset_imports.get("", 0)
        if bits == 2 and (version < CANONICAL or not runs_int2()):
            bits = 4  # what keeps the graph at an older version may not run in INT2's
        require_opset(self.model, OPSETS[bits])
        self.model.ir_version = max(self.model.ir_version or 0, IR_VERSIONS[bits])
        stem = (sites[0].source.name or sites[0].name).removesuffix(".dequantized")
        stored = DequantizedWeight(self.model.graph, self.context, weight, bits, stem)
        for site in sites:
            if site.kind == "gather":
                self._gather(site, stored)
            elif site.conv is not None:
                self._conv(site, stored)
            else:
                self._matmul(site, stored, gathered)
            wide = f" (codes of {width} bits)" if bits != width else ""
            text = f"{site.node.op_type} of {TYPES[bits].name}{wide}{remark}"
            self.context.entry.changed(site.name, text)

    def _gather(self, site: Site, stored: DequantizedWeight) -> None:
        build = Builder(site.name)
        rows = [build("Gather", array, site.data, axis=0) for array in stored.rows()]
        output = build(
            "DequantizeLinear",
            *rows,
            axis=-1,
            block_size=stored.block,
            **stored.to_float,
        )
        build.replace(site.node.outputs[0], output)
        remove_dead(site.node, site.source.producer())

    def _matmul(self, site: Site, stored: DequantizedWeight, gathered: bool) -> None:
        turned = rounding_of(site) is not None and not gathered
        if gathered:
            stored.rows()  # the embedding's initializers serve for the matmul too
        if turned:
            site.node.replace_input_with(1, stored.value("turned"))
            site.node.attributes.pop("transB", None)
        elif site.transpose is not None:
            site.transpose.replace_input_with(0, stored.value("rows"))
        else:
            site.node.replace_input_with(1, stored.value("rows"))
        self.round(site)
        remove_dead(site.transpose, site.source.producer())

    def _conv(self, site: Site, stored: DequantizedWeight) -> None:
        reshape = site.transpose.inputs[0] if site.transpose is not None else None
        site.node.replace_input_with(1, stored.value("kernels", site.conv))
        self.round(site)
        grid = reshape.producer() if reshape is not None else None
        remove_dead(site.transpose, grid, site.source.producer())

    def round(self, site: Site) -> None:
        """Write out the rounding of the site's input, once for all sites that read it."""
        rounding = rounding_of(site)
        if rounding is None:
            return
        if rounding.node not in self.rounded:
            channels = site.shape[1] if site.conv is None else site.conv.channels
            self.rounded[rounding.node] = round_input(
                self.model.graph, self.context, rounding, channels
            )
        site.node.replace_input_with(0, self.rounded[rounding.node])
        remove_dead(rounding.node)
