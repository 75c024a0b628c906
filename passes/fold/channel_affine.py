"""Nodes that scale and shift each channel: inference BatchNormalization, Mul, Add, Sub and Div."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bitfold.passes.core.rewire import constant
from bitfold.passes.fold.weights import batch_norm_affine

ARITHMETIC = ("Mul", "Add", "Sub", "Div")


@dataclass(frozen=True)
class ChannelAffine:
    """``y = scale[c] * x + shift[c]``, for channel c on axis 1.

    Attributes:
        node: what computes y.
        x: its input.
        scale: f64[C], or f64[1] for one factor for all channels.
        shift: likewise.
    """

    node: ir.Node
    x: ir.Value
    scale: np.ndarray
    shift: np.ndarray

    def over(self, channels: int) -> tuple[np.ndarray, np.ndarray]:
        """Scale and shift, f64[channels] each."""
        scale, shift = (np.broadcast_to(each, (channels,)) for each in (self.scale, self.shift))
        return scale, shift

    @property
    def scales_only(self) -> bool:
        """Whether it adds nothing."""
        return not np.any(self.shift)


def batch_norm_of(node: ir.Node) -> ChannelAffine | str:
    """A BatchNormalization as what it does to each channel, or why it does something else."""
    if node.attributes.get_int("training_mode", 0) or sum(bool(o.uses()) for o in node.outputs) > 1:
        return "it is in training mode"
    gain, bias, mean, variance = (constant(value) for value in node.inputs[1:5])
    if gain is None or bias is None or mean is None or variance is None:
        return "its statistics are not constants"
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    x = node.inputs[0]
    assert x is not None, "a BatchNormalization has its data input"
    return ChannelAffine(node, x, *batch_norm_affine(gain, bias, mean, variance, epsilon))


def arithmetic_of(node: ir.Node, rank: int, channels: int) -> ChannelAffine | None:
    """``x * c``, ``x + c``, ``x - c``, ``c - x`` or ``x / c`` with a constant for each channel.

    Args:
        node: any node.
        rank: axes of x.
        channels: size of x's axis 1; constants of one element serve all channels.

    Returns:
        None for any other node.
    """
    if node.domain != "" or node.op_type not in ARITHMETIC:
        return None
    for index in (1, 0):
        vector = channel_vector(node.inputs[index], rank, channels)
        x = node.inputs[1 - index]
        if vector is None or x is None or constant(x) is not None:
            continue
        one, zero = np.ones(1), np.zeros(1)
        if node.op_type == "Mul":
            return ChannelAffine(node, x, vector, zero)
        if node.op_type == "Add":
            return ChannelAffine(node, x, one, vector)
        if node.op_type == "Sub":
            return ChannelAffine(node, x, one if index else -one, -vector if index else vector)
        if index and np.all(vector != 0):
            return ChannelAffine(node, x, 1 / vector, zero)
    return None


def channel_vector(value: ir.Value | None, rank: int, channels: int) -> np.ndarray | None:
    """A float constant that broadcasts over all axes but axis 1, f64[channels] or f64[1]."""
    tensor = value.const_value if value is not None else None
    if tensor is None or tensor.size not in (1, channels) or len(tensor.shape) > rank:
        return None
    array = constant(value)
    if array is None or array.dtype.kind != "f" or not np.isfinite(array).all():
        return None
    dims = (1,) * (rank - array.ndim) + array.shape
    if any(size != 1 for axis, size in enumerate(dims) if axis != 1):
        return None
    return array.astype(np.float64).reshape(-1)
