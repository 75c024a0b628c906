"""Shapes of one node's outputs, from its inputs' and from the numbers that it reads."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

from bitfold.passes.analysis.sites import input_at
from bitfold.passes.canonicalize.shape_numbers import (
    Number,
    dim_number,
    divide,
    multiply,
    number_dim,
)


def set_shape(node: ir.Node, values: list[np.ndarray | None]) -> None:
    """Set the shape that Reshape, Expand and ConstantOfShape give, as far as the numbers tell."""
    output, target = node.outputs[0], values[-1]
    if target is None or target.ndim != 1 or output.is_graph_output():
        return
    dims = list(target)
    if node.op_type != "ConstantOfShape":
        source = input_at(node, 0)
        if source is None or source.shape is None:
            return
        data = [dim_number(dim) for dim in source.shape]
        resolved = reshaped(node, data, dims) if node.op_type == "Reshape" else _wide(data, dims)
        if resolved is None:
            return
        dims = resolved
    _merge(output, ir.Shape([number_dim(each) for each in dims]))


def reshaped(node: ir.Node, data: list[Number], target: list[Number]) -> list[Number] | None:
    """The shape that Reshape gives: 0 takes a dimension over, -1 is what is left."""
    copies = node.attributes.get_int("allowzero", 0) == 0
    dims: list[Number] = []
    for index, each in enumerate(target):
        if copies and each == 0 and index < len(data):
            each = data[index]
        dims.append(each)
    if -1 in dims:
        rest = _product([each for each in dims if each != -1])
        left = divide(_product(data), rest)
        dims[dims.index(-1)] = left
    return None if any(isinstance(each, int) and each < 0 for each in dims) else dims


def _wide(data: list[Number], target: list[Number]) -> list[Number]:
    """The shape that both broadcast to."""
    rank = max(len(data), len(target))
    a, b = ([1] * (rank - len(each)) + each for each in (data, target))
    dims: list[Number] = []
    for x, y in zip(a, b, strict=True):
        if x == 1 or x == y:
            dims.append(y)
        elif y == 1 or (isinstance(x, int) and x > 1):
            dims.append(x)
        else:
            dims.append(y if isinstance(y, int) and y > 1 else None)
    return dims


def _product(numbers: list[Number]) -> Number:
    result: Number = 1
    for each in numbers:
        result = multiply(result, each)
    return result


def infer(node: ir.Node, opsets: dict[str, int]) -> None:
    """Infer a node's output shapes, where some dimension is not known or has a made-up name."""
    if all(_is_settled(output) for output in node.outputs) or node.domain not in opsets:
        return
    graphs = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    if any(attribute.type in graphs for attribute in node.attributes.values()):
        return
    types: dict[str, onnx.TypeProto] = {}
    data: dict[str, onnx.TensorProto] = {}
    for value in node.inputs:
        if value is None:
            continue
        if value.type is None or not value.name:
            return
        proto = ir.serde.serialize_type(value.type)
        if value.shape is not None:
            ir.serde.serialize_shape_into(proto, value.shape)
        types[value.name] = proto
        tensor = value.const_value
        if tensor is not None and tensor.size <= 64 and not value.is_graph_input():
            data[value.name] = ir.serde.serialize_tensor(tensor)
    try:
        schema = onnx.defs.get_schema(node.op_type, opsets[node.domain], node.domain)
        found = onnx.shape_inference.infer_node_outputs(
            schema, ir.serde.serialize_node(node), types, data
        )
    except Exception:  # onnx raises classes of its own, which share no base, for broken nodes
        return  # an operator of others, or one that inference finds wrong: nothing is learnt
    for output in node.outputs:
        inferred = found.get(output.name or "")
        if inferred is None or output.is_graph_output():
            continue
        if output.type is None:
            output.type = ir.serde.deserialize_type_proto_for_type(inferred)
        shape = ir.serde.deserialize_type_proto_for_shape(inferred)
        if shape is not None:
            _merge(output, shape)


def _is_settled(value: ir.Value) -> bool:
    if value.is_graph_output():
        return True
    if value.type is None or value.shape is None:
        return False
    return not any(_is_vague(dim) for dim in value.shape)


def _is_vague(dim: int | ir.SymbolicDim) -> bool:
    """Whether a dimension is unknown, or has a name that shape inference made up."""
    return not isinstance(dim, int) and (dim.value is None or str(dim.value).startswith("unk__"))


def _merge(value: ir.Value, shape: ir.Shape) -> None:
    """Take what ``shape`` says of dimensions that are vague so far."""
    if value.shape is None or len(value.shape) != len(shape):
        if value.shape is None:
            value.shape = shape
        return
    dims = [
        new if _is_vague(old) and not (not isinstance(new, int) and new.value is None) else old
        for old, new in zip(value.shape, shape, strict=True)
    ]
    value.shape = ir.Shape(dims)
