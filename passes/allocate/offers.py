"""The schemes that weights may get on each target, and the bytes that they take there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bitfold.passes.analysis.conv_shape import stays_on_pixels
from bitfold.passes.analysis.sites import Site
from bitfold.passes.core.targets import Target, stock_width
from bitfold.passes.quantize.packed_size import packed_nbytes
from bitfold.runtime.formats.scale_types import ScaleType
from bitfold.runtime.formats.scheme import WeightScheme
from bitfold.runtime.layouts.conv import ConvLayout


@dataclass(frozen=True)
class Offer:
    """What weights may be stored as.

    Attributes:
        formats: number formats.
        scales: type of the scales.
        zero_points: whether those with zero points are tried, too.
    """

    formats: tuple[str, ...]
    scales: ScaleType
    zero_points: bool


_STOCK = Offer(("int2", "int4", "int8"), "f16", True)

OFFERS: dict[Target, Offer] = {
    # Levels between two scales of e4m3 lose less than zero points at as many bits.
    "native": Offer(
        ("gauss2", "gauss3", "gauss4", "int5", "int6", "int7", "int8"), "e4m3", zero_points=False
    ),
    "ort": _STOCK,
    "portable": _STOCK,
}
"""What serves best on each target.

``gauss5`` loses less than ``int5``, but takes three times as long for one row without AVX-512 VBMI.
Where weights are stored as plain integers and scales in 16 or 32 bits, other formats and scales
save nothing.
"""


NODES: dict[Target, int] = {"native": 0, "ort": 2300, "portable": 4600}
"""Bytes of the graph, or a few more, that lowering adds for each weight, besides bodies."""


def stored_nbytes(sites: Sequence[Site], scheme: WeightScheme, target: Target) -> int:
    """Bytes of the codes, scales and zero points of the weight that ``sites`` share.

    Behind a DequantizeLinear they have the types of the scheme, and bytes where rows are looked up;
    operators of ONNX Runtime have scales of 32 bits, and look up with zero points of a byte.
    """
    site = sites[0]
    if target == "native":
        return packed_nbytes(site.shape, scheme, site.conv)
    (n, k), conv = site.shape, site.conv
    groups = -(-k // scheme.group_size(k))
    if conv is not None:
        groups = ConvLayout(conv.n, conv.groups, conv.taps, conv.cg, scheme.group).scales
    gathered = any(each.kind == "gather" for each in sites)
    bits = stock_width(scheme.number.bits)
    if target == "portable" or (conv and not _is_matmul(site)):
        bits = 8 if gathered else bits
        scale_bits, zero_bits = 8 * scheme.scale_nbytes, bits
    else:
        k = max(k, groups * scheme.group)  # the last block is padded
        scale_bits, zero_bits = 32, bits
        if gathered:
            copies = len({each.kind for each in sites})  # a form for look-ups, one for matmuls
            scale_bits, zero_bits = 32 * copies, 8 + bits * (copies - 1)
    beside = scale_bits + (0 if scheme.symmetric else zero_bits)
    return n * (k * bits + groups * beside) // 8


def _is_matmul(site: Site) -> bool:
    """Whether a convolution becomes one of ONNX Runtime's matmuls."""
    return site.conv is not None and site.conv.taps == 1 and stays_on_pixels(site.node)
