"""Linear ops that have a constant weight but are no sites, and why not."""

from __future__ import annotations

import onnx_ir as ir

from bitfold.passes.analysis.foreign_sites import foreign_site
from bitfold.passes.analysis.sites import input_at, site_of
from bitfold.passes.core.words import counted


def near_miss(node: ir.Node) -> str | None:
    """Why a linear op with a float weight is no site; None for anything else.

    A MatMul without a weight at all is an attention's, say, and nothing missed; a Conv of a
    computed weight is told all the same, for there are few.  What another tool has quantized is
    told too: it is not quantized twice.
    """
    if site_of(node) is not None:
        return None
    foreign = foreign_site(node)
    if foreign is not None:
        return f"it is quantized already ({foreign.scheme}) and stays as it is"
    if node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type == "MatMul":
        return _matmul(node)
    if node.op_type == "Gemm":
        return _gemm(node)
    if node.op_type == "Conv":
        return _conv(node)
    if node.op_type == "ConvTranspose" and _weight_rank(input_at(node, 1)) is not None:
        return "transposed convolutions have no low-bit operator"
    if node.op_type in ("LSTM", "GRU", "RNN"):
        return "recurrent layers have no low-bit operator"
    if node.op_type == "Einsum" and any((_weight_rank(each) or 0) > 1 for each in node.inputs):
        return "an Einsum is no MatMul"
    if node.op_type in ("Gather", "GatherND") and (_weight_rank(input_at(node, 0)) or 0) > 2:
        return f"its table has {_weight_rank(input_at(node, 0))} axes, not 2"
    if node.op_type == "Gather" and _weight_rank(input_at(node, 0)) == 2:
        axis = node.attributes.get_int("axis", 0)
        return f"it gathers along axis {axis} of its table, not along rows" if axis else None
    return None


def _matmul(node: ir.Node) -> str | None:
    left, right = _weight_rank(input_at(node, 0)), _weight_rank(input_at(node, 1))
    if right is not None and right != 2:
        return f"its weight has {counted(right, 'axis', 'axes')}, not 2"
    if right is None and left is not None and left >= 2:
        return "its weight is the left operand"
    return _overridable(input_at(node, 1))


def _gemm(node: ir.Node) -> str | None:
    if _weight_rank(input_at(node, 1)) != 2:
        return _overridable(input_at(node, 1))
    attributes = node.attributes
    for name in ("alpha", "beta"):
        if attributes.get_float(name, 1.0) != 1.0:
            return f"{name} is {attributes.get_float(name, 1.0):g}, not 1"
    if attributes.get_int("transA", 0):
        return "it transposes its data"
    return "its C is no constant vector with an element for each output"


def _conv(node: ir.Node) -> str | None:
    weight = input_at(node, 1)
    padding = node.attributes.get_string("auto_pad", "NOTSET")
    if padding not in ("NOTSET", "VALID"):
        return f"its padding ({padding}) depends on the input's size"
    rank = _weight_rank(weight)
    if rank is not None:
        return f"its kernel has {rank - 2} axes, not 1 or 2"
    producer = weight.producer() if weight is not None else None
    if producer is not None:
        return f"its weight is computed, by {producer.op_type} {producer.name}"
    return _overridable(weight)


def _weight_rank(value: ir.Value | None) -> int | None:
    """The rank of a constant float weight of more than one element; None for anything else."""
    if value is None or not value.is_initializer() or value.is_graph_input():
        return None
    tensor = value.const_value
    if tensor is None or not tensor.dtype.is_floating_point() or tensor.size <= 1:
        return None
    return len(tensor.shape)


def _overridable(value: ir.Value | None) -> str | None:
    if value is not None and value.is_initializer() and value.is_graph_input():
        return "its weight is a graph input with a default, which callers may replace"
    return None
