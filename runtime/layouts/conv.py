"""The packed layout of convolution weights: what ``LowBitConv`` reads.

Rows run over (tap, channel), each conv group's rows are tiled apart, and where there are several
taps each begins at a multiple of 16 input channels, so that a kernel can point at a pixel's
quantized channels tap by tap.  Depthwise rows, one input channel each, are tiled in plain order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bitfold.runtime.layouts.tiles import TILE, pack_codes, tile_groups

UNIT = 16
"""Channels of a tap are padded to a multiple of this."""


@dataclass(frozen=True)
class ConvLayout:
    """How the weight [N, taps * cg] of a convolution is laid out.

    Attributes:
        n: output channels, of all conv groups.
        groups: conv groups.
        taps: elements of the convolution window.
        cg: input channels of a conv group.
        group_size: input channels that share a scale: a multiple of 16 that divides ``cg``;
            anything else stands for one scale a tap.
    """

    n: int
    groups: int
    taps: int
    cg: int
    group_size: int

    @property
    def depthwise(self) -> bool:
        """Whether every output has a single input channel."""
        return self.cg == 1

    @property
    def padded_cg(self) -> int:
        """Packed input channels of a tap."""
        if self.taps == 1 or self.depthwise:
            return self.cg
        return -(-self.cg // UNIT) * UNIT

    @property
    def k(self) -> int:
        """Packed input channels of a row."""
        return self.taps * self.padded_cg

    @property
    def packed_group_size(self) -> int:
        """The operator's ``group_size``."""
        if self.depthwise:
            return self.taps
        if self.group_size % UNIT == 0 and self.group_size > 0 and self.cg % self.group_size == 0:
            return self.group_size
        return self.padded_cg

    @property
    def scales(self) -> int:
        """Scales of a row."""
        return self.k // self.packed_group_size

    @property
    def banks(self) -> int:
        """Sets of rows that are tiled apart."""
        return 1 if self.depthwise else self.groups

    @property
    def bank_rows(self) -> int:
        """Rows of a bank, padded to whole tiles."""
        return -(-self.n // self.banks // TILE) * TILE

    def padded(self, rows: np.ndarray) -> np.ndarray:
        """Rows [N, X] as [banks * bank_rows, X], the added ones zero."""
        apart = np.zeros((self.banks, self.bank_rows, rows.shape[1]), rows.dtype)
        apart[:, : self.n // self.banks] = rows.reshape(self.banks, -1, rows.shape[1])
        return apart.reshape(-1, rows.shape[1])


@dataclass(frozen=True)
class PackedConv:
    """Codes u8 [packed_size], scales [T, G, 16], zero points i8 [T, G, 16] or None.

    Attributes:
        group_size: the operator's attribute, which the layout may have changed.
    """

    codes: np.ndarray
    scales: np.ndarray
    zero_points: np.ndarray | None
    group_size: int


def pack_conv_weight(
    codes: np.ndarray,
    scales: np.ndarray,
    zero_points: np.ndarray | None,
    bits: int,
    groups: int,
    taps: int,
    cg: int,
    group_size: int,
) -> PackedConv:
    """Pack codes u8 [N, taps * cg] in the order (tap, channel), scales and zero points [N, G].

    ``G = taps * cg / group_size`` with groups that lie within a tap.  One scale a row (``G = 1``)
    or a tap is taken as well, and repeated where the layout has more of them.

    Raises:
        ValueError: the shapes do not fit each other, or a code does not fit in ``bits`` bits.
    """
    n, k = codes.shape
    if k != taps * cg or n % groups:
        raise ValueError(
            f"expected codes [a multiple of {groups}, {taps} * {cg}], found {codes.shape}"
        )
    layout = ConvLayout(n, groups, taps, cg, group_size)
    spread = np.zeros((n, taps, layout.padded_cg), np.uint8)
    spread[:, :, :cg] = codes.reshape(n, taps, cg)

    def tiled(values: np.ndarray) -> np.ndarray:
        if values.shape[0] != n or layout.scales % values.shape[1]:
            raise ValueError(f"expected [{n}, {layout.scales}] scales, found {values.shape}")
        repeated = np.repeat(values, layout.scales // values.shape[1], axis=1)
        return tile_groups(layout.padded(repeated))

    return PackedConv(
        pack_codes(layout.padded(spread.reshape(n, layout.k)), bits),
        tiled(scales),
        None if zero_points is None else tiled(zero_points),
        layout.packed_group_size,
    )
