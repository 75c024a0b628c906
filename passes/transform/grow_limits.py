"""What keeps a space from getting more channels: whatever counts them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis.sites import input_at, site_of
from bitfold.passes.analysis.spaces.space import Space
from bitfold.passes.analysis.spaces.symmetry import PERMUTE
from bitfold.passes.analysis.spaces.trace import Kind, Port, Role, Trace, dims_of, varying
from bitfold.passes.core.rewire import constant

_ELEMENT_BY_ELEMENT = (
    *("Gelu", "Sigmoid", "Tanh", "Erf", "Softplus", "Softsign", "HardSwish", "HardSigmoid", "Elu"),
    *("Selu", "Celu", "Mish", "Swish", "Exp", "Log", "Sqrt", "Reciprocal", "Pow", "Clip", "Sin"),
    *("Cos", "Floor", "Ceil", "Round", "Sign", "ThresholdedRelu", "Relu", "LeakyRelu", "PRelu"),
    *("Abs", "Identity", "Cast", "Neg", "Add", "Sub", "Mul", "Div", "Where", "SwiGLU"),
)
_BY_CHANNEL = (
    *("AveragePool", "GlobalAveragePool", "MaxPool", "GlobalMaxPool", "Pad", "Concat"),
    *("Transpose", "Flatten", "Squeeze", "Unsqueeze", "BatchNormalization"),
    *("InstanceNormalization", "MatMul", "Gemm", "Conv"),
)
FREE = frozenset((*_ELEMENT_BY_ELEMENT, *_BY_CHANNEL))
"""Operators that treat each channel by itself, whatever their number; linear ops sum them up."""

_OVER_ROWS = frozenset(("ReduceMean", "ReduceSum", "Slice", "Split", "Gather"))
"""Operators that do as long as they do not work along the axis of the channels."""


def why_not_grow(trace: Trace, spaces: Sequence[Space], limit: int) -> list[str]:
    """Of each space, what keeps it from getting more channels; empty where nothing does.

    Args:
        limit: elements up to which a parameter that others read too is copied.
    """
    reasons = [_refusal(space, limit) for space in spaces]
    owner = np.full(trace.count, -1)
    for number, space in enumerate(spaces):
        owner[space.coordinates.ids] = number
    for value, ids in trace.at.items():
        for number in np.unique(owner[ids]):
            if number >= 0 and not reasons[number]:
                reasons[number] = _fixed(trace, value, ids)
    return reasons


def _parameter(port: Port) -> ir.Value | None:
    return port.node.inputs[port.index]


def stored_axis(port: Port) -> int | None:
    """The one axis of a parameter, as it is stored, that holds coordinates; None for several."""
    value = _parameter(port)
    shape = None if value is None or value.shape is None else tuple(value.shape)
    if shape == port.view and len(port.axes) == 1:
        return port.axes[0]
    one_group = (1, *(shape or ())) == port.view and port.axes[0] == 0 and len(port.axes) == 2
    return port.axes[1] - 1 if one_group else None


def sums_up(port: Port) -> bool:
    """Whether it adds channels up: copies must then share what the original gave."""
    return port.kind is Kind.WEIGHT and port.role is Role.READ


def _refusal(space: Space, limit: int) -> str:
    """What of its parameters and limits keeps a space from growing."""
    reason = space.why_not(PERMUTE)
    if reason:
        return reason
    if space.blocks > 1:
        return f"it is in {space.blocks} blocks, which must stay alike"
    if space.states:
        return f"{space.states[0].state.given.name} holds it from run to run"
    if any(held.inverse.any() for held in space.held):
        return "two activations are contracted along it"
    for held in space.held:
        port, node = held.port, held.port.op
        value = port.node.inputs[port.index]
        array = constant(value)
        if array is None or stored_axis(port) is None:
            return f"{node.op_type} {node.name} holds it along several axes, or in groups"
        if node.op_type == "Conv" and node.attributes.get_int("group", 1) > 1:
            weight = constant(node.inputs[1])
            if weight is None or weight.shape[1] > 1:
                return f"Conv {node.name} has groups of one size"
        assert value is not None, "it has an array"
        mine = {h.port.node: sums_up(h.port) for h in space.held if _parameter(h.port) is value}
        other = next((use.node for use in value.uses() if use.node not in mine), None)
        if array.size > limit and (other is not None or len(set(mine.values())) > 1):
            reader = other or node
            return f"{reader.op_type} {reader.name} reads {value.name} too"
    return ""


def _fixed(trace: Trace, value: ir.Value, ids: np.ndarray) -> str:
    """Why a value cannot have more channels, or whoever makes or reads it."""
    axes, dims = varying(ids), dims_of(value)
    if len(axes) != 1 or dims is None or dims[axes[0]] != ids.shape[axes[0]]:
        return f"{value.name} has it along several axes (heads), or others between"
    for node in (value.producer(), *(use.node for use in value.uses())):
        if node is None:
            continue
        reason = _merges(trace, node) or _says_size(node, value, axes[0])
        if reason:
            return f"{node.op_type} {node.name} {reason}"
    return ""


def _merges(trace: Trace, node: ir.Node) -> str:
    """Whether a Reshape makes one axis of channels and rows: copies would not lie side by side."""
    if node.op_type not in ("Reshape", "Flatten"):
        return ""
    found = [trace.ids(value) for value in (node.inputs[0], node.outputs[0])]
    lengths = {max(ids.shape, default=1) for ids in found if ids is not None}
    return "joins channels with rows, or parts them" if len(lengths) > 1 else ""


def _says_size(node: ir.Node, value: ir.Value, axis: int) -> str:
    """Why an operator does not work alike for more channels along ``axis`` of ``value``."""
    rank = len(value.shape or ())
    if node.op_type in ("MatMul", "Gemm"):
        return "" if site_of(node) is not None else "multiplies two activations"
    if node.op_type in FREE:
        return ""
    if node.op_type == "Gather" and site_of(node) is not None:
        return ""
    if node.op_type == "Resize":
        return "is told the size" if input_at(node, 3) is not None else ""
    if node.op_type == "Reshape":
        return _reshapes(node, value, axis)
    if node.op_type in _OVER_ROWS:
        return _along(node, value, axis, rank)
    return "depends on how many channels there are"


def _reshapes(node: ir.Node, value: ir.Value, axis: int) -> str:
    target = constant(input_at(node, 1))
    if target is None:
        return "reshapes to what is no constant"
    if value in node.outputs and target[axis] == 0 and node.attributes.get_int("allowzero", 0) == 0:
        source = dims_of(node.inputs[0])
        if source is None or source[axis] != (dims_of(value) or [])[axis]:
            return "copies another size"
    return ""


def _along(node: ir.Node, value: ir.Value, axis: int, rank: int) -> str:
    """Of an operator over some axes: whether the channels' is one of them."""
    if value in node.outputs:
        return ""  # what it reads is asked, too
    if node.op_type == "Split":
        told = input_at(node, 1)
        return "" if told is None or constant(told) is not None else "splits at what is no constant"
    if node.op_type == "Gather":
        return "" if node.attributes.get_int("axis", 0) % rank != axis else "picks channels"
    place = 3 if node.op_type == "Slice" else 1
    axes = constant(input_at(node, place))
    if axes is None or any(int(each) % rank == axis for each in axes.reshape(-1)):
        return "works along the channels"
    return ""
