"""Lowering to the operators of stock ONNX Runtime: MatMulNBits and GatherBlockQuantized."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis.conv_shape import stays_on_pixels
from bitfold.passes.analysis.sites import Site, input_at, is_vector
from bitfold.passes.core.context import Context
from bitfold.passes.core.rewire import shared_initializer
from bitfold.passes.core.targets import ORT_DOMAIN, stock_width
from bitfold.passes.lower.blocks import blocked
from bitfold.passes.lower.epilogue import is_op, only_consumer
from bitfold.passes.lower.neutral import rounding_of, stock_weight_of, weight_of, width_of
from bitfold.passes.lower.stored_blocks import StoredBlocks
from bitfold.passes.lower.surgery import Builder, remove_dead
from bitfold.passes.lower.targets import matmul_block, rounding_block

FLOAT_INPUTS, INT8_INPUTS = 1, 4
"""Values of accuracy_level.  Left out, it stands for float inputs, whatever the peers expect."""


def ort_block(site: Site) -> int | str:
    """The block size in which ORT's operators run a matmul or look-up, or why they do not."""
    weight = weight_of(site)
    width = stock_width(width_of(weight.bits, weight.table))
    k = site.shape[1]
    rounding = rounding_of(site)
    if rounding is None:
        return matmul_block(k, weight.group_size)
    if rounding.scale is not None:
        return "inputs of one static scale: MatMulNBits makes one for each row and block"
    if rounding.bits != 8:
        return f"int{rounding.bits} inputs: MatMulNBits rounds to int8"
    shape = rounding.source.shape
    if shape is not None and len(shape) < 2:
        return f"an input with {len(shape)} axes: MatMulNBits takes two or more"
    return rounding_block(width, k, weight.group_size, rounding.group_size)


@dataclass
class OrtLowering:
    """Replaces sites weight by weight; a weight that several sites share is stored once."""

    model: ir.Model
    context: Context

    def lower(self, sites: Sequence[Site], blocks: Sequence[int]) -> None:
        """Replace ``sites``, which share one weight, each in its block size."""
        stored: dict[int, StoredBlocks] = {}
        weight = stock_weight_of(sites[0])
        width = width_of(weight.bits, weight.table)
        bits = stock_width(width)
        stem = (sites[0].source.name or sites[0].name).removesuffix(".dequantized")
        for site, block in zip(sites, blocks, strict=True):
            if block not in stored:
                suffix = f"_{block}" if stored else ""
                stored[block] = StoredBlocks(
                    self.model.graph,
                    self.context,
                    blocked(weight, bits, block),
                    bits,
                    f"{stem}.blocks{suffix}",
                )
            replace = {"gather": self._gather, "conv": self._conv}.get(site.kind, self._matmul)
            operator = replace(site, stored[block], block)
            wide = f" (codes of {width} bits)" if bits != width else ""
            self.context.entry.changed(site.name, f"{operator} of {bits} bits{wide}, block {block}")
        self.model.graph.opset_imports[ORT_DOMAIN] = 1

    def _matmul(self, site: Site, stored: StoredBlocks, block: int) -> str:
        rounding = rounding_of(site)
        end, bias = with_bias(site)
        build = Builder(site.name)
        data = rounding.source if rounding is not None else site.data
        output = self._product(build, site, stored, block, data, bias)
        last = end.producer()
        build.replace(end, output)
        quantizer = rounding.node if rounding is not None else None
        remove_dead(last, site.node, quantizer, site.transpose, site.source.producer())
        return f"MatMulNBits{'' if rounding is None else ' with int8 inputs'}"

    def _conv(self, site: Site, stored: StoredBlocks, block: int) -> str:
        rounding = rounding_of(site)
        assert rounding is not None, "others become a DequantizeLinear and a Conv"
        assert site.conv is not None, "the site is a convolution"
        rank = 2 + len(site.conv.kernel)
        build = Builder(site.name)
        pixels = build("Transpose", rounding.source, perm=[0, *range(2, rank), 1])
        output = self._product(build, site, stored, block, pixels, input_at(site.node, 2))
        build.replace(
            site.node.outputs[0],
            build("Transpose", output, perm=[0, rank - 1, *range(1, rank - 1)]),
        )
        grid = site.transpose.inputs[0] if site.transpose is not None else None
        reshape = grid.producer() if grid is not None else None
        remove_dead(site.node, rounding.node, site.transpose, reshape, site.source.producer())
        return "MatMulNBits between Transposes, with int8 inputs"

    def _product(
        self,
        build: Builder,
        site: Site,
        stored: StoredBlocks,
        block: int,
        data: ir.Value,
        bias: ir.Value | None,
    ) -> ir.Value:
        """``data`` [..., K] times the site's weight, with int8 inputs where its scheme has them."""
        n, k = site.shape
        return build(
            "MatMulNBits",
            data,
            stored.codes,
            stored.scales,
            stored.packed_zeros,
            None,
            bias,
            domain=ORT_DOMAIN,
            K=k,
            N=n,
            bits=stored.bits,
            block_size=block,
            accuracy_level=FLOAT_INPUTS if rounding_of(site) is None else INT8_INPUTS,
        )

    def _gather(self, site: Site, stored: StoredBlocks, block: int) -> str:
        k = site.shape[1]
        build = Builder(site.name)
        # [..., G, block]: the codes keep the shape that MatMulNBits reads them in.
        rows = build(
            "GatherBlockQuantized",
            stored.codes,
            site.data,
            stored.scales_column,
            stored.zeros_column,
            domain=ORT_DOMAIN,
            bits=stored.bits,
            block_size=block,
            gather_axis=0,
            quantize_axis=2,
        )
        lead = build("Shape", rows, start=0, end=-2)
        whole = stored.groups * block
        shape = build("Concat", lead, self._int(whole), axis=0)
        output = build("Reshape", rows, shape)
        if whole != k:
            output = build("Slice", output, *(self._int(each) for each in (0, k, -1)))
        build.replace(site.node.outputs[0], output)
        remove_dead(site.node, site.source.producer())
        return "GatherBlockQuantized"

    def _int(self, number: int) -> ir.Value:
        array = np.array([number], np.int64)
        return shared_initializer(self.model.graph, self.context, array, f"bitfold.ints.{number}")


def is_pointwise(site: Site) -> bool:
    """Whether a convolution is a matmul of each pixel, whose input is rounded on the fly."""
    return (
        site.conv is not None
        and site.conv.taps == 1
        and site.conv.groups == 1
        and rounding_of(site) is not None
        and stays_on_pixels(site.node)
    )


def with_bias(site: Site) -> tuple[ir.Value, ir.Value | None]:
    """The site's output, or that of the Add of a constant vector behind it; and the vector."""
    output = site.node.outputs[0]
    if site.kind == "gemm":
        return output, input_at(site.node, 2)
    add = only_consumer(output, site.node.graph)
    if add is None or not is_op(add, "Add"):
        return output, None
    other = next((each for each in add.inputs if each is not output), None)
    if other is None or not is_vector(other, site.shape[0]):
        return output, None
    return add.outputs[0], other
