"""What a matmul reads before it is rounded, and scales of its channels: LowBitMatMul takes both."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from bitfold.passes.analysis.sites import Site, is_vector
from bitfold.passes.lower.epilogue import is_op, only_consumer
from bitfold.passes.lower.neutral import Rounding


@dataclass(frozen=True)
class SiteInput:
    """A matmul's float input.

    Attributes:
        value: the input, before its channels are scaled.
        scales: the constant vector [K] that it is multiplied by, if any.
        reader: what reads ``value`` on its way to the matmul.
        shared: whether what is rounded has other readers: nothing before it can be taken in then.
    """

    value: ir.Value
    scales: ir.Value | None
    reader: ir.Node
    shared: bool = False

    def taken(self) -> list[str]:
        """A name for the scales, for the report."""
        return ["input scales"] * (self.scales is not None)


def input_of(site: Site, rounding: Rounding | None) -> SiteInput:
    """The input of a site that is rounded as ``rounding`` says, or not at all."""
    graph = site.node.graph
    plain = SiteInput(site.data, None, site.node)
    if rounding is not None:
        shared = only_consumer(rounding.node.outputs[0], graph) is None
        plain = SiteInput(rounding.source, None, rounding.node, shared)
    scale = plain.value.producer()
    alone = not plain.shared and only_consumer(plain.value, graph) is plain.reader
    if scale is None or not alone or not is_op(scale, "Mul"):
        return plain
    for value, scales in (scale.inputs, reversed(scale.inputs)):
        if value is None or scales is None or not is_vector(scales, site.shape[1]):
            continue
        if _is_row(value, site):
            return SiteInput(value, scales, scale)
    return plain


def _is_row(value: ir.Value, site: Site) -> bool:
    """Whether ``value`` is float32 of the site's channels, none of them made by broadcasting."""
    if value.dtype != ir.DataType.FLOAT or not value.shape:
        return False
    return value.shape[-1] == site.shape[1]
