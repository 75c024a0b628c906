"""``fold-batch-norm``: move a scale and shift per channel into the linear op beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from bitfold.passes.core.base import Pass, Promise
from bitfold.passes.core.context import Context
from bitfold.passes.core.rewire import add_bias, constant, set_input, vector
from bitfold.passes.fold.channel_affine import (
    ARITHMETIC,
    ChannelAffine,
    arithmetic_of,
    batch_norm_of,
)
from bitfold.passes.fold.weights import (
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
       Conv must have no padding, or nothing be added: the border would get the shift where it had
       zeros.
    3. Mul, Add, Sub and Div with a constant for each channel, as which some exporters write
       normalization, are folded into convolutions likewise.

    Left alone, with the reason: training mode, statistics or weights that are no constants, a
    MatMul whose output is no matrix (the channels are axis 1, not the last).
    """

    name: ClassVar[str] = "fold-batch-norm"
    promise: ClassVar[Promise] = Promise.EXACT

    def run(self, model: ir.Model, context: Context) -> bool:
        changed = False
        refused: dict[ir.Node, str] = {}
        for node in list(model.graph):
            affine = _affine_behind(node)
            if isinstance(affine, str):
                context.entry.skipped(_site(node), affine)
            elif affine is not None:
                into, refused[node] = _into_producer(model.graph, affine, context)
                if _told(node, into, context):
                    changed = True
                    del refused[node]
        # Backwards: what stands behind a node has been folded when the node's turn comes.
        for node in reversed(list(model.graph)):
            affine = _affine_before(node) or (_affine_behind(node) if node in refused else None)
            if affine is None:
                continue
            assert isinstance(affine, ChannelAffine), "it was one above"
            into, second = _into_consumer(affine, context)
            if _told(node, into, context):
                changed = True
            else:
                reasons = filter(None, (refused.get(node), second))
                context.entry.skipped(_site(node), "; ".join(reasons))
        if changed:
            common.RemoveUnusedNodesPass()(model)
        return changed


def _site(node: ir.Node) -> str:
    return node.name or str(node.outputs[0].name)


def _told(node: ir.Node, into: ir.Node | None, context: Context) -> bool:
    if into is not None:
        context.entry.changed(_site(node), f"folded into {into.op_type} {into.name}")
    return into is not None


def _affine_behind(node: ir.Node) -> ChannelAffine | str | None:
    """A BatchNormalization, or arithmetic on what a convolution computes."""
    if node.domain == "" and node.op_type == "BatchNormalization":
        return batch_norm_of(node)
    for value in node.inputs if node.op_type in ARITHMETIC else ():
        conv = value.producer() if value is not None else None
        weight = constant(conv.inputs[1]) if conv is not None and _is_conv(conv) else None
        if conv is not None and weight is not None:
            found = arithmetic_of(node, weight.ndim, _outputs(conv, weight))
            if found is not None and found.x is value:
                return found
    return None


def _affine_before(node: ir.Node) -> ChannelAffine | None:
    """Arithmetic on what a Conv alone reads."""
    if node.op_type not in ARITHMETIC or len(node.outputs[0].uses()) != 1:
        return None
    conv, index = next(iter(node.outputs[0].uses()))
    if index != 0 or conv.op_type != "Conv" or conv.domain != "":
        return None
    weight = constant(conv.inputs[1])
    if weight is None:
        return None
    channels = weight.shape[1] * conv.attributes.get_int("group", 1)
    found = arithmetic_of(node, weight.ndim, channels)
    # A constant could stretch an axis of size 1; an input of known shape is not stretched.
    shape = found.x.shape if found is not None else None
    return (
        found if shape is not None and len(shape) == weight.ndim and shape[1] == channels else None
    )


def _is_conv(node: ir.Node) -> bool:
    return node.domain == "" and node.op_type in CONVOLUTIONS


def _outputs(conv: ir.Node, weight: np.ndarray) -> int:
    """Output channels of a Conv or ConvTranspose."""
    if conv.op_type == "Conv":
        return int(weight.shape[0])
    return int(weight.shape[1]) * conv.attributes.get_int("group", 1)


def _into_producer(
    graph: ir.Graph, affine: ChannelAffine, context: Context
) -> tuple[ir.Node | None, str]:
    source, output = affine.x, affine.node.outputs[0]
    place = list(affine.node.inputs).index(source)
    node = source.producer()
    if node is None or node.domain != "" or node.op_type not in (*CONVOLUTIONS, "Gemm", "MatMul"):
        return None, "its input comes from no linear op"
    if source.is_graph_output() or len(source.uses()) != 1:
        return None, "others read its input too"
    reason = _refusal(node)
    if reason:
        return None, reason
    weight = constant(node.inputs[1])
    assert weight is not None  # _refusal looked
    if _is_conv(node):
        scale, shift = affine.over(_outputs(node, weight))
        groups = node.attributes.get_int("group", 1)
        scaled = (
            scale_conv_outputs(weight, scale)
            if node.op_type == "Conv"
            else scale_conv_transpose_outputs(weight, scale, groups)
        )
    else:
        if node.op_type == "MatMul" and (source.shape is None or len(source.shape) != 2):
            return None, "its input is not known to be a matrix"
        scale, shift = affine.scale, affine.shift
        # Stored [in, out]: output channels are the columns, which scale_inputs scales.
        in_first = _in_first(node)
        scaled = scale_inputs(weight, scale) if in_first else scale_inputs(weight.T, scale).T
    bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if not np.all(scale == 1):
        set_input(node, 1, scaled, context)
    if bias is not None:
        set_input(node, 2, (bias * scale + shift).astype(bias.dtype), context, "bias")
    elif not affine.scales_only:
        add_bias(node, shift, context)
    last = affine.node.inputs[place]  # the Add of a new bias may stand behind the source
    assert last is not None
    _take_over(graph, output, last)
    return node, ""


def _into_consumer(affine: ChannelAffine, context: Context) -> tuple[ir.Node | None, str]:
    output = affine.node.outputs[0]
    users = list(output.uses())
    if output.is_graph_output() or len(users) != 1:
        return None, "more than one node reads its output"
    node, index = users[0]
    if index != 0 or node.domain != "" or node.op_type not in ("Conv", "Gemm", "MatMul"):
        return None, f"{node.op_type} reads it, which is no linear op"
    reason = _refusal(node)
    if reason:
        return None, reason
    weight = constant(node.inputs[1])
    assert weight is not None  # _refusal looked
    if node.op_type == "Conv":
        padded = any(node.attributes.get_ints("pads", [])) or node.attributes.get_string(
            "auto_pad", "NOTSET"
        ) not in ("NOTSET", "VALID")
        if padded and not affine.scales_only:
            return None, "the Conv after it pads its input"
        groups = node.attributes.get_int("group", 1)
        scale, shift = affine.over(weight.shape[1] * groups)
        moved = shift_of_conv_inputs(weight, shift, groups)
        scaled = scale_conv_inputs(weight, scale, groups)
    else:
        if node.op_type == "MatMul" and (output.shape is None or len(output.shape) != 2):
            return None, "its output is not known to be a matrix"
        in_first = _in_first(node)
        rows = weight.T if in_first else weight
        moved = shift_of_inputs(rows, affine.shift)
        scaled = scale_inputs(rows, affine.scale)
        scaled = scaled.T if in_first else scaled
    if not np.all(affine.scale == 1):
        set_input(node, 1, scaled, context)
    if not affine.scales_only:
        add_bias(node, moved, context)
    node.replace_input_with(0, affine.x)
    # At once: what comes before it must have no other reader than the linear op.
    assert affine.node.graph is not None
    affine.node.graph.remove(affine.node, safe=True)
    return node, ""


def _in_first(node: ir.Node) -> bool:
    """Whether a MatMul or Gemm stores its weight as [in, out]."""
    turned = node.attributes.get_int("transB", 0)
    return node.op_type == "MatMul" or not turned


def _refusal(node: ir.Node) -> str:
    """Why the weight or bias of a linear op cannot be changed, or an empty string."""
    weight = node.inputs[1]
    if constant(weight) is None:
        return f"the {node.op_type} has a weight that is not a constant"
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None:
        array = constant(bias)
        if array is None or vector(bias, array.shape[-1] if array.ndim else 0) is None:
            return f"the {node.op_type} has a bias that is not a constant vector"
    if node.op_type == "Gemm" and (
        node.attributes.get_int("transA", 0) != 0
        or node.attributes.get_float("alpha", 1.0) != 1.0
        or node.attributes.get_float("beta", 1.0) != 1.0
    ):
        return "the Gemm scales or transposes its input"
    assert weight is not None
    if node.op_type in ("Gemm", "MatMul") and (weight.shape is None or len(weight.shape) != 2):
        return f"the {node.op_type} has a weight that is not a matrix"
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
