"""Follow the shapes that a graph computes, so that what they decide is known ahead."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis.sites import input_at
from bitfold.passes.canonicalize.input_dims import distinct_input_dims
from bitfold.passes.canonicalize.node_shapes import infer, reshaped, set_shape
from bitfold.passes.canonicalize.reshape_targets import mixes_zero_and_rest
from bitfold.passes.canonicalize.shape_numbers import (
    Size,
    constant_numbers,
    dim_number,
    evaluate,
    is_plain,
)

Numbers = dict[ir.Value, np.ndarray]


def fold_shapes(model: ir.Model) -> bool:
    """Make constants of numbers that follow from known dimensions, in the main graph.

    Exporters that trace (TorchScript) compute every shape anew from ``Shape``, dimension by
    dimension, and attention's scale too.  In one walk over the graph:

    1. Small tensors computed from dimensions become constants where all of them are known, and
       those that are equal to one of their node's inputs become that input.
    2. A number that is a dimension of a graph input is read there, once for the whole graph.
    3. ``Reshape`` reads ``[0, 0, 4, 16]`` where it takes dimensions over from its input.
    4. ``Expand`` to the shape that its input has goes.
    5. Output shapes are inferred anew where a dimension was unknown, so that what follows from
       (1) to (4) is known further down.

    Dimensions of one name are taken to be equal, as ONNX means them, and at least 0; but for
    placeholders and for names that stand twice on one input.

    Returns:
        Whether a node was rewritten.
    """
    with distinct_input_dims(model.graph):
        return _fold(model)


def _fold(model: ir.Model) -> bool:
    numbers: Numbers = {}
    dimensions = _Dimensions(model.graph)
    changed = False
    for node in list(model.graph):
        infer(node, model.opset_imports)
        values = [None if each is None else _numbers_of(each, numbers) for each in node.inputs]
        if node.domain == "" and node.op_type in ("Reshape", "Expand", "ConstantOfShape"):
            set_shape(node, values)
        found = evaluate(node, values)
        if found is not None and len(node.outputs) == 1:
            numbers[node.outputs[0]] = found
            if not node.outputs[0].is_graph_output():
                changed |= _replace(model.graph, node, found, values)
                taken = dimensions.take(node, found)
                if taken is not None:
                    numbers[taken] = found
                    changed = True
        elif node.op_type == "Reshape" and node.domain == "":
            changed |= _simplify_reshape(model.graph, node, values[1])
        elif node.op_type == "Expand" and node.domain == "":
            changed |= _drop_expand(node)
    return changed


def _numbers_of(value: ir.Value, numbers: Numbers) -> np.ndarray | None:
    if value not in numbers:
        found = constant_numbers(value)
        if found is None:
            return None
        numbers[value] = found
    return numbers[value]


def _replace(
    graph: ir.Graph, node: ir.Node, found: np.ndarray, values: list[np.ndarray | None]
) -> bool:
    """Put a constant in the place of what is known, or the input that it is equal to."""
    output = node.outputs[0]
    if mixes_zero_and_rest(output, found.reshape(-1).tolist()):
        return False
    if is_plain(found):
        return _replace_by_constant(graph, output, found)
    for value, numbers in zip(node.inputs, values, strict=True):
        if value is None or numbers is None or value.dtype != output.dtype or not output.uses():
            continue
        same = numbers.shape == found.shape and None not in found.reshape(-1).tolist()
        if same and numbers.reshape(-1).tolist() == found.reshape(-1).tolist():
            ir.convenience.replace_all_uses_with(output, value)
            return True
    return False


class _Dimensions:
    """The dimensions of graph inputs that were read so far."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._places: dict[Size, tuple[ir.Value, int]] = {}
        self._values: dict[tuple[Size, int], ir.Value] = {}
        for value in graph.inputs:
            for axis, dim in enumerate(value.shape or ()):
                number = dim_number(dim)
                if isinstance(number, Size):
                    self._places.setdefault(number, (value, axis))

    def take(self, node: ir.Node, found: np.ndarray) -> ir.Value | None:
        """Replace the node's output, where it is a graph input's dimension, by what is returned."""
        output = node.outputs[0]
        size = found.reshape(-1)[0] if found.size == 1 and found.ndim < 2 else None
        if not isinstance(size, Size) or size not in self._places or not output.uses():
            return None
        if output.dtype != ir.DataType.INT64 or output.name is None:
            return None
        key = (size, found.ndim)
        if key not in self._values:
            if self._reads(node, size):
                self._values[key] = output
                return None
            self._values[key] = self._made(node, size, found.ndim)
        ir.convenience.replace_all_uses_with(output, self._values[key])
        return self._values[key]

    def _reads(self, node: ir.Node, size: Size) -> bool:
        """Whether the node reads the dimension from the graph input already."""
        if node.op_type == "Squeeze":
            return node.inputs[0] is self._values.get((size, 1))
        value, axis = self._places[size]
        attributes = node.attributes
        plain = attributes.get_int("start", 0) == axis and attributes.get_int("end", -1) == axis + 1
        return node.op_type == "Shape" and node.inputs[0] is value and plain

    def _made(self, node: ir.Node, size: Size, rank: int) -> ir.Value:
        """New nodes before ``node`` that read the dimension."""
        if (size, 1) not in self._values:
            value, axis = self._places[size]
            shape = ir.node("Shape", [value], {"start": axis, "end": axis + 1})
            shape.outputs[0].name = f"{node.outputs[0].name}/size"
            shape.outputs[0].shape = ir.Shape([1])
            shape.outputs[0].type = ir.TensorType(ir.DataType.INT64)
            self._graph.insert_before(node, shape)
            self._values[size, 1] = shape.outputs[0]
        if rank:
            return self._values[size, 1]
        scalar = ir.node("Squeeze", [self._values[size, 1]])
        scalar.outputs[0].name = f"{node.outputs[0].name}/number"
        scalar.outputs[0].shape = ir.Shape([])
        scalar.outputs[0].type = ir.TensorType(ir.DataType.INT64)
        self._graph.insert_before(node, scalar)
        return scalar.outputs[0]


def _replace_by_constant(graph: ir.Graph, value: ir.Value, found: np.ndarray) -> bool:
    """Put a constant in the place of ``value``; its node is left for the clean-up."""
    if value.dtype is None or not value.uses() or not (value.name or ""):
        return False
    if value.dtype == ir.DataType.STRING:
        return False
    array = np.array(found.tolist(), dtype=value.dtype.numpy()).reshape(found.shape)
    name = f"{value.name}/known"
    if name in graph.initializers:
        return False
    constant = ir.Value(name=name, type=ir.TensorType(value.dtype), shape=ir.Shape(array.shape))
    constant.const_value = ir.tensor(array, name=name)
    graph.register_initializer(constant)
    ir.convenience.replace_all_uses_with(value, constant)
    return True


def _simplify_reshape(graph: ir.Graph, node: ir.Node, target: np.ndarray | None) -> bool:
    """Give the Reshape a constant target: 0 for what it takes over, at most one -1."""
    source, shape = input_at(node, 0), input_at(node, 1)
    if source is None or source.shape is None or shape is None or target is None:
        return False
    if target.ndim != 1 or shape.is_initializer():
        return False
    # Among no elements 0 and -1 mean something else, or nothing.
    if any(dim == 0 for dim in (*source.shape, *(node.outputs[0].shape or ()))):
        return False
    data = [dim_number(dim) for dim in source.shape]
    resolved = reshaped(node, data, list(target))
    lengths = node.attributes.get_int("allowzero", 0) != 0
    dims: list[int] = []
    holes = []
    for index, each in enumerate(target):
        same = index < len(data) and each == data[index]
        if each == -1 and resolved is not None and isinstance(resolved[index], int):
            each = resolved[index]
        if isinstance(each, int):
            if each == 0 and lengths:
                return False
            dims.append(each)
        elif isinstance(each, Size) and same:
            dims.append(0)
        else:
            holes.append(index)
            dims.append(-1)
    # A -1 beside a dimension of 0 elements could not be resolved, but by a Reshape that takes a
    # computed 0 for a length.
    if dims.count(-1) > 1 or ((holes or lengths) and -1 in dims and 0 in dims):
        return False
    name = f"{node.outputs[0].name}/shape"
    if name in graph.initializers:
        return False
    constant = ir.Value(
        name=name, type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([len(dims)])
    )
    constant.const_value = ir.tensor(np.array(dims, np.int64), name=name)
    graph.register_initializer(constant)
    node.replace_input_with(1, constant)
    node.attributes.pop("allowzero", None)
    return True


def _drop_expand(node: ir.Node) -> bool:
    source, output = input_at(node, 0), node.outputs[0]
    if source is None or source.shape is None or output.shape is None or output.is_graph_output():
        return False
    before = [dim_number(dim) for dim in source.shape]
    after = [dim_number(dim) for dim in output.shape]
    if before != after or None in before:
        return False
    ir.convenience.replace_all_uses_with(output, source)
    return True
