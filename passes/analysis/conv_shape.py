"""The shape of a convolution's weight, in ONNX's order and in the order that is quantized."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir


@dataclass(frozen=True)
class ConvShape:
    """A Conv's weight W[n, cg, *kernel].

    Quantized, its columns are in the order (tap, channel): W[n, *kernel, cg], so that the channels
    of one pixel, which share an activation scale, lie side by side.

    Attributes:
        n: output channels.
        cg: input channels of one convolution group.
        kernel: the spatial sizes, one or two of them.
        groups: convolution groups; each makes ``n / groups`` outputs from its own ``cg`` inputs.
    """

    n: int
    cg: int
    kernel: tuple[int, ...]
    groups: int

    @property
    def taps(self) -> int:
        """Kernel positions."""
        return int(np.prod(self.kernel, dtype=np.int64))

    @property
    def channels(self) -> int:
        """Input channels of all groups."""
        return self.cg * self.groups

    @property
    def k(self) -> int:
        """Inputs of one output: columns of the weight."""
        return self.taps * self.cg

    @property
    def depthwise(self) -> bool:
        """Whether each output reads a single channel."""
        return self.cg == 1

    @property
    def to_channels_last(self) -> tuple[int, ...]:
        """The permutation from [n, cg, *kernel] to [n, *kernel, cg]."""
        return (0, *range(2, 2 + len(self.kernel)), 1)

    @property
    def to_channels_first(self) -> tuple[int, ...]:
        """The permutation back."""
        rank = 1 + len(self.kernel)
        return (0, rank, *range(1, rank))

    def columns(self, weight: np.ndarray) -> np.ndarray:
        """W[n, cg, *kernel] as [n, k], columns in the order (tap, channel)."""
        return weight.transpose(self.to_channels_last).reshape(self.n, self.k)

    def kernels(self, columns: np.ndarray) -> np.ndarray:
        """The inverse of :meth:`columns`."""
        grid = columns.reshape(self.n, *self.kernel, self.cg)
        return grid.transpose(self.to_channels_first)


def stays_on_pixels(conv: ir.Node) -> bool:
    """Whether a Conv with a window of one pixel has an output for every pixel, and no others."""
    attributes = conv.attributes
    steps = attributes.get_ints("strides", ())
    return not any(attributes.get_ints("pads", ())) and all(step == 1 for step in steps)
