"""The size of a quantized weight in the kernels' layout, before it is packed."""

from __future__ import annotations

from bitfold.passes.analysis.conv_shape import ConvShape
from bitfold.passes.quantize.rounding import QuantizedWeight
from bitfold.runtime.formats.scheme import WeightScheme
from bitfold.runtime.layouts.conv import ConvLayout
from bitfold.runtime.layouts.masked import masked_size
from bitfold.runtime.layouts.tiles import TILE, packed_size


def packed_nbytes(
    shape: tuple[int, int],
    scheme: WeightScheme,
    conv: ConvShape | None = None,
    scale_nbytes: int | None = None,
) -> int:
    """Bytes of the codes, scales and zero points of a weight [N, K], padding included.

    Rows are padded to tiles of 16, inputs to chunks of 32, and the channels of a tap to 16.

    Args:
        conv: the weight's shape, where it is a convolution's.
        scale_nbytes: bytes of a scale; by default those of the scheme's type.
    """
    n, k = shape
    if conv is None:
        rows, groups = -(-n // TILE) * TILE, -(-k // scheme.group_size(k))
    else:
        layout = ConvLayout(conv.n, conv.groups, conv.taps, conv.cg, scheme.group)
        rows, k, groups = layout.banks * layout.bank_rows, layout.k, layout.scales
    if scale_nbytes is None:
        scale_nbytes = scheme.scale_nbytes
    zero_nbytes = 0 if scheme.symmetric else 1
    return packed_size(rows, k, scheme.number.bits) + rows * groups * (scale_nbytes + zero_nbytes)


def added_nbytes(plus: QuantizedWeight) -> int:
    """Bytes of a weight [N, K] that is added to a matmul's, in the layout that takes fewer of them.

    Where most of it is zeros that is the masked one.
    """
    n, k = plus.codes.shape
    bits, levels = plus.scheme.number.bits, plus.scheme.number.decode(plus.codes)
    dense = packed_nbytes((n, k), plus.scheme, scale_nbytes=plus.scales.itemsize)
    codes = packed_size(-(-n // TILE) * TILE, k, bits)
    return dense - codes + min(codes, masked_size(levels != 0, bits))
