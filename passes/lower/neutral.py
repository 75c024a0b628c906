"""Read the neutral form: a quantized weight's arrays, and how a site's input is rounded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypedDict

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis.sites import Site, input_at
from bitfold.passes.lower.epilogue import array_of
from bitfold.runtime.formats.scale_types import scale_values
from bitfold.runtime.ops import DOMAIN
from bitfold.runtime.ops.scale_floats import ScaleKind, kind_of


class ScaleOptions(TypedDict):
    """Fields that the native operators' configurations share."""

    scale_kind: ScaleKind
    scale_factor: float


@dataclass(frozen=True)
class NeutralWeight:
    """A weight ``scales * (level - zero_points)``, level by level what its codes stand for.

    Attributes:
        codes: uint8 [N, K].
        scales: [N, G] of a type in ``runtime/formats/scale_types``.
        zero_points: int8 [N, G], or None.
        table: int8 or float32 [2**bits], or None where code c stands for ``c - 2**(bits - 1)``.
        bits: bits of a code.
        group_size: input channels that share a scale; the last group may be shorter.
    """

    codes: np.ndarray
    scales: np.ndarray
    zero_points: np.ndarray | None
    table: np.ndarray | None
    bits: int
    group_size: int

    @property
    def integral(self) -> bool:
        """Whether every level is an integer of 8 bits."""
        return self.table is None or self.table.dtype == np.int8

    def levels(self) -> np.ndarray:
        """The integers int8 [N, K] that the codes stand for, where no level is a float."""
        if self.table is not None:
            return self.table[self.codes]
        # In uint8 the difference wraps around, to the bytes of a negative int8.
        return (self.codes - np.uint8(1 << (self.bits - 1))).view(np.int8)


def width_of(bits: int, table: np.ndarray | None) -> int:
    """Bits of the narrowest two's-complement integer that holds every level."""
    if table is None:
        return bits
    reach = max(int(table.max(initial=0)), -int(table.min(initial=0)) - 1)
    return reach.bit_length() + 1


def weight_of(site: Site) -> NeutralWeight:
    """The quantized weight of a site; its arrays stay mapped."""
    node = site.quantized
    assert node is not None, "only quantized sites are lowered"
    codes, scales, zeros, table = (array_of(input_at(node, index)) for index in range(4))
    assert codes is not None, "a DequantizeWeight has codes"
    assert scales is not None, "a DequantizeWeight has scales"
    group_size = node.attributes.get_int("group_size", site.shape[1])
    return NeutralWeight(
        codes, scales, zeros, table, node.attributes.get_int("bits", 8), group_size
    )


def stock_weight_of(site: Site) -> NeutralWeight:
    """The quantized weight of a site with scales that stock operators read: floats.

    They are float16 where that holds each of them exactly.
    """
    weight, node = weight_of(site), site.quantized
    assert node is not None, "only quantized sites are lowered"
    if weight.scales.dtype in (np.float16, np.float32):
        return weight
    scales = scale_values(weight.scales, node.attributes.get_float("scale_factor", 1.0))
    with np.errstate(over="ignore"):
        half = scales.astype(np.float16)
    exact = np.array_equal(half.astype(np.float32), scales)
    return replace(weight, scales=half if exact else scales)


def scale_options(dequantize: ir.Node) -> ScaleOptions:
    """How a DequantizeWeight reads its scales, for the operator that takes its place."""
    scales = array_of(input_at(dequantize, 1))
    assert scales is not None, "a DequantizeWeight has scales"
    factor = dequantize.attributes.get_float("scale_factor", 1.0)
    return {"scale_kind": kind_of(scales), "scale_factor": factor}


@dataclass(frozen=True)
class Rounding:
    """How a site's input is rounded on the fly.

    Attributes:
        node: the ``QuantizeActivation``.
        source: its float input.
        bits: bits of a level.
        group_size: channels that share a scale.
        axis: -1 for rows, 1 for the pixels of [n, C, ...].
        scale: the one scale f32 [1] of all activations; None where each group has its own.
    """

    node: ir.Node
    source: ir.Value
    bits: int
    group_size: int
    axis: int
    scale: ir.Value | None = None


def rounding_of(site: Site) -> Rounding | None:
    """How the site's input is rounded; None where it stays float."""
    node = site.data.producer() if site.kind != "gather" else None
    if node is None or node.domain != DOMAIN or node.op_type != "QuantizeActivation":
        return None
    source = node.inputs[0]
    assert source is not None, "a QuantizeActivation has an input"
    attributes = node.attributes
    return Rounding(
        node,
        source,
        attributes.get_int("bits", 8),
        attributes.get_int("group_size", site.shape[1]),
        attributes.get_int("axis", -1),
        input_at(node, 1),
    )
