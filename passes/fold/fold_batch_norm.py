"""``fold-batch-norm``: move inference BatchNormalization into the linear op beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from bitfold.passes.core.base import Pass, Promise
from bitfold.passes.core.context import Context
from bitfold.passes.core.rewire import add_bias, constant, set_input, vector
from bitfold.passes.fold.weights import (
    batch_norm_affine,
    scale_conv_inputs,
    scale_conv_outputs,
    scale_conv_transpose_outputs,
    scale_inputs,
    shift_of_conv_inputs,
    shift_of_inputs,
)

CONVOLUTIONS = ("Conv", "ConvTranspose")


@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """Fold ``y = scale * x + shift`` per channel (Ioffe and Szegedy, 2015) into a neighbour.

    1. Into the Conv, ConvTranspose, Gemm or MatMul before it, if nothing else reads that one.
    2. Else into the Conv, Gemm or MatMul after it, if nothing else reads the normalization.  A
       Conv must have no padding: the border would get the shift where it had zeros.

    Left alone, with the reason: training mode, statistics or weights that are no constants, a
    MatMul whose output is no matrix (the channels are axis 1, not the last).
    """

    name: ClassVar[str] = "fold-batch-norm"
    promise: ClassVar[Promise] = Promise.EXACT

    def run(self, model: ir.Model, context: Context) -> bool:
        changed = False
        for node in list(model.graph):
            if node.op_type != "BatchNormalization" or node.domain != "":
                continue
            site = node.name or str(node.outputs[0].name)
            affine = _affine(node)
            if isinstance(affine, str):
                context.entry.skipped(site, affine)
                continue
            into, reason = _into_producer(model.graph, node, *affine, context)
            if into is None:
                into, second = _into_consumer(node, *affine, context)
                reason = f"{reason}; {second}"
            if into is None:
                context.entry.skipped(site, reason)
                continue
            context.entry.changed(site, f"folded into {into.op_type} {into.name}")
            changed = True
        if changed:
            common.RemoveUnusedNodesPass()(model)
        return changed


def _affine(node: ir.Node) -> tuple[np.ndarray, np.ndarray] | str:
    """The normalization as (scale, shift), or why it is not one."""
    if node.attributes.get_int("training_mode", 0) or sum(bool(o.uses()) for o in node.outputs) > 1:
        return "it is in training mode"
    arrays = [constant(value) for value in node.inputs[1:5]]
    gain, bias, mean, variance = arrays
    if gain is None or bias is None or mean is None or variance is None:
        return "its statistics are not constants"
    return batch_norm_affine(gain, bias, mean, variance, node.attributes.get_float("epsilon", 1e-5))


def _into_producer(
    graph: ir.Graph, norm: ir.Node, scale: np.ndarray, shift: np.ndarray, context: Context
) -> tuple[ir.Node | None, str]:
    source, output = norm.inputs[0], norm.outputs[0]
    assert source is not None
    node = source.producer()
    if node is None or node.domain != "" or node.op_type not in (*CONVOLUTIONS, "Gemm", "MatMul"):
        return None, f"{source.name} comes from no linear op"
    if source.is_graph_output() or len(source.uses()) != 1:
        return None, f"others read {source.name} too"
    reason = _refusal(node)
    if reason:
        return None, reason
    weight = constant(node.inputs[1])
    assert weight is not None  # _refusal looked
    if node.op_type == "Conv":
        scaled = scale_conv_outputs(weight, scale)
    elif node.op_type == "ConvTranspose":
        scaled = scale_conv_transpose_outputs(weight, scale, node.attributes.get_int("group", 1))
    else:
        if node.op_type == "MatMul" and (source.shape is None or len(source.shape) != 2):
            return None, f"{source.name} is not known to be a matrix"
        # Stored [in, out]: output channels are the columns, which scale_inputs scales.
        in_first = _in_first(node)
        scaled = scale_inputs(weight, scale) if in_first else scale_inputs(weight.T, scale).T
    bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    set_input(node, 1, scaled, context)
    if bias is not None:
        set_input(node, 2, (bias * scale + shift).astype(bias.dtype), context, "bias")
    else:
        add_bias(node, shift, context)
    last = norm.inputs[0]
    assert last is not None
    _take_over(graph, output, last)
    return node, ""


def _into_consumer(
    norm: ir.Node, scale: np.ndarray, shift: np.ndarray, context: Context
) -> tuple[ir.Node | None, str]:
    output = norm.outputs[0]
    users = list(output.uses())
    if output.is_graph_output() or len(users) != 1:
        return None, f"more than one node reads {output.name}"
    node, index = users[0]
    if index != 0 or node.domain != "" or node.op_type not in ("Conv", "Gemm", "MatMul"):
        return None, f"{node.op_type} {node.name} reads it, which is no linear op"
    reason = _refusal(node)
    if reason:
        return None, reason
    weight = constant(node.inputs[1])
    assert weight is not None  # _refusal looked
    if node.op_type == "Conv":
        if any(node.attributes.get_ints("pads", [])) or node.attributes.get_string(
            "auto_pad", "NOTSET"
        ) not in ("NOTSET", "VALID"):
            return None, f"Conv {node.name} pads its input"
        groups = node.attributes.get_int("group", 1)
        moved = shift_of_conv_inputs(weight, shift, groups)
        scaled = scale_conv_inputs(weight, scale, groups)
    else:
        if node.op_type == "MatMul" and (output.shape is None or len(output.shape) != 2):
            return None, f"{output.name} is not known to be a matrix"
        in_first = _in_first(node)
        rows = weight.T if in_first else weight
        moved = shift_of_inputs(rows, shift)
        scaled = scale_inputs(rows, scale)
        scaled = scaled.T if in_first else scaled
    set_input(node, 1, scaled, context)
    add_bias(node, moved, context)
    node.replace_input_with(0, norm.inputs[0])
    return node, ""


def _in_first(node: ir.Node) -> bool:
    """Whether a MatMul or Gemm stores its weight as [in, out]."""
    turned = node.attributes.get_int("transB", 0)
    return node.op_type == "MatMul" or not turned


def _refusal(node: ir.Node) -> str:
    """Why the weight or bias of a linear op cannot be changed, or an empty string."""
    weight = node.inputs[1]
    if constant(weight) is None:
        return f"the weight of {node.op_type} {node.name} is not a constant"
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None:
        array = constant(bias)
        if array is None or vector(bias, array.shape[-1] if array.ndim else 0) is None:
            return f"the bias of {node.op_type} {node.name} is not a constant vector"
    if node.op_type == "Gemm" and (
        node.attributes.get_int("transA", 0) != 0
        or node.attributes.get_float("alpha", 1.0) != 1.0
        or node.attributes.get_float("beta", 1.0) != 1.0
    ):
        return f"Gemm {node.name} scales or transposes its input"
    assert weight is not None
    if node.op_type in ("Gemm", "MatMul") and (weight.shape is None or len(weight.shape) != 2):
        return f"the weight of {node.op_type} {node.name} is not a matrix"
    return ""


def _take_over(graph: ir.Graph, old: ir.Value, new: ir.Value) -> None:
    """Let ``new`` stand where ``old`` stood, under ``old``'s name."""
    norm = old.producer()
    name = old.name
    for user, index in list(old.uses()):
        user.replace_input_with(index, new)
    for index, value in enumerate(graph.outputs):
        if value is old:
            graph.outputs[index] = new
            new.type, new.shape = old.type, old.shape
    assert norm is not None
    graph.remove(norm, safe=True)
    new.name = name
