"""``hada-conv``: turn the channels of what convolutions read by Hadamards as the model runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis.activations import ChannelStatistics, channel_statistics
from bitfold.passes.analysis.conv_shape import ConvShape
from bitfold.passes.analysis.site_weights import other_reader
from bitfold.passes.analysis.sites import Site, find_sites
from bitfold.passes.core.base import Promise
from bitfold.passes.core.context import Context
from bitfold.passes.core.rewire import set_input
from bitfold.passes.transform.at_scheme import AtScheme
from bitfold.passes.transform.layer_error import Product, decibels, products_of
from bitfold.passes.transform.online import hadamard_node
from bitfold.passes.transform.scaling import ROWS
from bitfold.runtime.errors import RecipeError
from bitfold.runtime.hadamard import hadamard_transform

WORTH = 0.9
"""What the error must fall to, as a share: the nodes take time."""


@dataclass(frozen=True)
class HadaConv(AtScheme):
    """Online Hadamards across the channels of what convolutions read, in blocks.

    HadaNet's UGConv: a Hadamard in front, and its inverse in the weight of every tap, cancel;
    padding stays zero.  Channels come in blocks, each within a group of the convolution; behind a
    ReLU, whose outputs have a mean, larger blocks gather that mean in one channel and lose by it.

    1. Only where it lowers the estimated error at the scheme by a tenth: at 4-bit weights and
       8-bit inputs it does on EfficientNet's projections (1.4 dB with a scale per channel, 0.6 dB
       with one per 16), at 4-bit inputs it loses there.
    2. It takes a Transpose before and behind: by 16 to 78% of a projection's time, most where
       images are large.  No preset turns it on.  Where the space can be rotated, ``rotate`` is
       free.
    3. Skipped, with the reason: depthwise convolutions and others whose groups no block divides,
       and weights that others read too.

    Attributes:
        sites: globs of convolutions, or their weights.
        block: channels that are turned together, a power of two.
        weights, group, symmetric, acts, act_granularity: how the convolutions will be quantized,
            as in ``quantize``; errors are estimated for it.
    """

    name: ClassVar[str] = "hada-conv"
    promise: ClassVar[Promise] = Promise.EXACT

    sites: tuple[str, ...] = ("*",)
    block: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.block < 2 or self.block & (self.block - 1):
            raise RecipeError(f"expected a block of a power of two, found {self.block}")

    def run(self, model: ir.Model, context: Context) -> bool:
        by_data: dict[ir.Value, list[Site]] = {}
        for site in find_sites(model):
            if site.conv is not None and site.node.graph is model.graph:
                reason = self._refusal(site, site.conv)
                if reason:
                    context.entry.skipped(site.name, reason)
                else:
                    by_data.setdefault(site.data, []).append(site)
        samples = context.statistics() if by_data else ()
        if by_data and not samples:
            context.entry.note("no sample inputs to estimate errors on: nothing is changed")
        axes = {str(data.name): (1,) for data in by_data}
        seen = channel_statistics(model, axes, samples, ROWS)
        changed = False
        for sites in by_data.values() if seen else ():
            changed |= self._turn(model, sites, seen, context)
        return changed

    def _refusal(self, site: Site, conv: ConvShape) -> str:
        if not site.matches(self.sites):
            return "not among the recipe's sites"
        if site.quantized is not None:
            return "already quantized"
        if conv.cg % self.block:
            return f"no blocks of {self.block} channels fit into its groups"
        other = other_reader(site)
        return "" if other is None else f"{other.op_type} {other.name} reads its weight"

    def _turn(
        self,
        model: ir.Model,
        sites: Sequence[Site],
        seen: Mapping[str, ChannelStatistics],
        context: Context,
    ) -> bool:
        names = ", ".join(site.name for site in sites)
        found = seen[str(sites[0].data.name)]
        if not found.finite:
            context.entry.skipped(names, "what it reads is not finite on the sample inputs")
            return False
        before, after = (
            float(np.mean([self._error(site, found.rows, turned) for site in sites]))
            for turned in (False, True)
        )
        figures = f"SQNR {decibels(before)} -> {decibels(after)}"
        if after >= WORTH * before:
            context.entry.skipped(names, "it would gain too little", figures)
            return False
        turned = _turned_input(model, sites[0], self.block, context)
        for site in sites:
            conv = site.conv
            assert conv is not None, "looked at above"
            columns = hadamard_transform(np.asarray(site.weight(), np.float32), self.block)
            set_input(site.node, 1, conv.kernels(columns), context)
            site.node.replace_input_with(0, turned)
        context.entry.changed(names, f"input turned in blocks of {self.block}: {figures}")
        return True

    def _error(self, site: Site, rows: np.ndarray, turned: bool) -> float:
        """Noise over signal of a convolution."""
        noise = signal = 0.0
        for product in products_of(site, rows, self.scheme()):
            x, w = product.x, product.w
            if turned:
                x, w = (hadamard_transform(each, self.block) for each in (x, w))
            tried = Product(x, w, product.scheme, product.places)
            noise += tried.noise(np.ones(x.shape[1], np.float32))
            signal += float(np.square(product.exact, dtype=np.float64).sum())
        return noise / signal if signal else 0.0


def _turned_input(model: ir.Model, site: Site, block: int, context: Context) -> ir.Value:
    """What ``site`` reads [n, C, *spatial], its channels turned."""
    data, name = site.data, f"{site.name}/Hadamard"
    dims = list(data.shape or ())
    last = [0, *range(2, len(dims)), 1]
    first = [0, len(dims) - 1, *range(1, len(dims) - 1)]
    there = _transposed(data, last, f"{name}/last")
    node = hadamard_node(model, there.outputs[0], block, name, context)
    back = _transposed(node.outputs[0], first, f"{name}/first")
    model.graph.insert_before(site.node, [there, node, back])
    return back.outputs[0]


def _transposed(value: ir.Value, order: Sequence[int], name: str) -> ir.Node:
    node = ir.node("Transpose", [value], {"perm": list(order)}, name=name)
    made = node.outputs[0]
    made.name, made.type = name, value.type
    made.shape = ir.Shape([(value.shape or ())[axis] for axis in order])
    return node
