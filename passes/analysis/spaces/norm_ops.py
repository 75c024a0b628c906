"""Norms: what they leave of a space's symmetries, and their gains and biases."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis.sites import input_at
from bitfold.passes.analysis.spaces.pointwise_ops import covering, vector_port
from bitfold.passes.analysis.spaces.symmetry import CENTER, PERMUTE, ROTATE, SCALE
from bitfold.passes.analysis.spaces.trace import Kind, Port, Role, Trace
from bitfold.passes.core.rewire import constant


def norm(node: ir.Node, trace: Trace) -> str | None:
    """RMSNormalization and LayerNormalization over the last axes.

    A rotation passes through an RMSNorm whose gains are all the same (folded, say); scales do
    not, but the gain can scale what comes out.  A LayerNorm subtracts the mean over the channels,
    so that what is added to all of them does not matter.  A norm of ``trace.joined`` has the same
    coordinates in front and behind, though it has a gain for each channel.
    """
    ids = trace.ids(input_at(node, 0))
    if ids is None:
        return None
    axis = node.attributes.get_int("axis", -1) % ids.ndim
    array, bias = constant(input_at(node, 1)), constant(input_at(node, 2))
    if array is None or (bias is None and input_at(node, 2) is not None):
        return "its gain or bias is no constant"
    if array.size != ids[(0,) * axis].size:
        return "it normalizes over rows, or its gain is not one for each channel"
    trace.part(ids, tuple(range(axis)), node)
    made = trace.renew(ids)
    trace.put(node.outputs[0], made)
    rms = node.op_type == "RMSNormalization"
    even = bool(np.all(array == array.flat[0])) or node in trace.joined
    trace.link(made, ids, PERMUTE | ROTATE if rms and even else PERMUTE)
    lost = SCALE | CENTER if rms else SCALE
    trace.limit(ids, lost, node, "divides by the norm of all channels")
    if not rms:
        both = np.concatenate([ids.ravel(), made.ravel()])
        trace.limit(both, ROTATE, node, "subtracts the mean (ln-to-rms may make it an RMSNorm)")
    elif not even:
        both = np.concatenate([ids.ravel(), made.ravel()])
        trace.limit(both, ROTATE, node, "has a gain for each channel (fold-norm-gain)")
    trace.limit(made, CENTER, node, "gives it, and its gain a mean (post-norm)")
    covered = covering(array, ids)
    ports = [vector_port(node, 1, array, made, covered, trace, Role.WRITE, Kind.GAIN)]
    if not (rms and even):  # an even gain may be reordered without being touched
        ports.append(vector_port(node, 1, array, ids, covered, trace, Role.READ, Kind.GAIN))
    if bias is not None:
        covered = covering(bias, ids)
        ports.append(vector_port(node, 2, bias, made, covered, trace, Role.WRITE, Kind.BIAS))
    trace.ports += ports
    return None


def batch_norm(node: ir.Node, trace: Trace) -> str | None:
    """BatchNormalization of inference, over axis 1."""
    ids = trace.ids(input_at(node, 0))
    if ids is None:
        return None
    reason = _unfit(node, ids, 4)
    if reason is not None:
        return reason
    row, made = _by_channel(node, trace, ids)
    for each in (row, made):
        trace.limit(each, ROTATE | CENTER, node, "scales each channel (fold-batch-norm)")
    trace.limit(row, SCALE, node, "scales each channel (fold-batch-norm)")
    shape = (len(row),)
    trace.ports += [
        Port(node, 1, shape, (0,), made, Role.WRITE, node, Kind.GAIN),
        Port(node, 2, shape, (0,), made, Role.WRITE, node, Kind.BIAS),
        Port(node, 3, shape, (0,), row, Role.WRITE, node, Kind.BIAS),
        Port(node, 4, shape, (0,), row, Role.READ, node, Kind.GAIN),
    ]
    return None


def _by_channel(node: ir.Node, trace: Trace, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The channels of axis 1, and what becomes of each by itself."""
    row = trace.channel(ids, 1)
    made = trace.write(node.outputs[0], 1, len(row))
    trace.link(made, row, PERMUTE)
    return row, made


def _unfit(node: ir.Node, ids: np.ndarray, parameters: int) -> str | None:
    """Why a norm of axis 1 with constant parameters cannot be followed."""
    if node.outputs[0].shape is None or node.attributes.get_int("training_mode", 0) != 0:
        return "it is no plain norm of a known shape"
    arrays = [constant(input_at(node, index + 1)) for index in range(parameters)]
    if any(array is None or array.shape != (ids.shape[1],) for array in arrays):
        return "its parameters are not one constant for each channel"
    return None


def instance_norm(node: ir.Node, trace: Trace) -> str | None:
    """InstanceNormalization: each channel by itself."""
    ids = trace.ids(input_at(node, 0))
    if ids is None:
        return None
    reason = _unfit(node, ids, 2)
    if reason is not None:
        return reason
    row, made = _by_channel(node, trace, ids)
    for each in (row, made):
        trace.limit(each, ROTATE | CENTER | SCALE, node, "normalizes each channel by itself")
    for index, kind in ((1, Kind.GAIN), (2, Kind.BIAS)):
        port = Port(node, index, (len(row),), (0,), made, Role.WRITE, node, kind)
        trace.ports.append(port)
    return None
