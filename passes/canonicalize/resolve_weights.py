"""Make plain weights of those behind Transpose, Reshape, Squeeze, Unsqueeze, Flatten and Cast."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis.sites import is_constant
from bitfold.passes.core.context import Context
from bitfold.passes.core.report import PassEntry

_RESHAPING = {"Reshape", "Squeeze", "Unsqueeze", "Flatten"}

_TO_FLOAT = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)
"""Types whose Cast to float32 is resolved: integers that are cast are someone's codes."""


def resolve_weights(model: ir.Model, context: Context, entry: PassEntry) -> bool:
    """Replace nodes that only arrange a constant by the constant so arranged, in place.

    1. Other shapes refer to the same bytes, wherever they lie.
    2. Other orders and types are computed when they are first read, one weight at a time, and
       large ones live on disk from then on: memory stays at about one weight.
    3. The Transpose of a matrix in front of MatMul stays: sites look through it, and a head that
       is tied to an embedding needs no copy.

    Returns:
        Whether anything changed.
    """
    changed = False
    for graph in list(model.graphs()):
        for node in list(graph):
            if node.domain != "" or len(node.outputs) != 1 or node.outputs[0].is_graph_output():
                continue
            source = node.inputs[0] if node.inputs else None
            if source is None or not is_constant(source) or source.const_value is None:
                continue
            tensor = _arranged(node, source, context)
            if tensor is not None:
                entry.changed(str(node.outputs[0].name), f"weight resolved through {node.op_type}")
                _replace(model, node, tensor)
                changed = True
    return changed


def _arranged(node: ir.Node, source: ir.Value, context: Context) -> ir.TensorProtocol | None:
    """The tensor that ``node`` makes of its constant input; None where it is to stay."""
    tensor = source.const_value
    if tensor is None or tensor.dtype == ir.DataType.STRING:
        return None
    dims = tuple(tensor.shape.numpy())
    name = node.outputs[0].name or ""
    if node.op_type in _RESHAPING:
        shape = _shape_after(node, dims)
        return None if shape is None else _reshaped(tensor, shape, name)
    if node.op_type == "Cast":
        if node.attributes.get_int("to", 0) != ir.DataType.FLOAT or tensor.dtype not in _TO_FLOAT:
            return None
        return _computed(
            lambda: tensor.numpy().astype(np.float32), ir.DataType.FLOAT, dims, name, context
        )
    if node.op_type == "Transpose":
        perm = tuple(node.attributes.get_ints("perm", tuple(range(len(dims)))[::-1]))
        if sorted(perm) != list(range(len(dims))) or tensor.dtype.bitwidth < 8:
            return None
        if perm == (1, 0) and _feeds_matmul(node):
            return None
        shape = tuple(dims[axis] for axis in perm)
        return _computed(
            lambda: np.ascontiguousarray(tensor.numpy().transpose(perm)),
            tensor.dtype,
            shape,
            name,
            context,
        )
    return None


def _feeds_matmul(node: ir.Node) -> bool:
    uses = node.outputs[0].uses()
    return all(user.op_type == "MatMul" and index == 1 for user, index in uses)


def _shape_after(node: ir.Node, dims: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape that a reshaping node gives a constant of shape ``dims``; None if not known."""
    if node.op_type == "Flatten":
        axis = node.attributes.get_int("axis", 1)
        if not -len(dims) <= axis <= len(dims):
            return None
        at = axis + len(dims) if axis < 0 else axis
        return int(np.prod(dims[:at])), int(np.prod(dims[at:]))
    operand = node.inputs[1] if len(node.inputs) > 1 else None
    numbers = None
    if operand is not None:
        if not is_constant(operand) or operand.const_value is None:
            return None
        numbers = [int(i) for i in operand.const_value.numpy().reshape(-1)]
    try:
        if node.op_type == "Reshape":
            return _reshape(numbers, dims, node.attributes.get_int("allowzero", 0))
        empty = np.broadcast_to(np.empty((), np.bool_), dims)  # has a shape, and no memory
        if node.op_type == "Squeeze":
            axes = None if numbers is None else tuple(numbers)
            return np.squeeze(empty, axes).shape
        return None if numbers is None else np.expand_dims(empty, tuple(numbers)).shape
    except (ValueError, IndexError):
        return None  # the node is wrong: the model's check says so


def _reshape(
    numbers: list[int] | None, dims: tuple[int, ...], allowzero: int
) -> tuple[int, ...] | None:
    if numbers is None:
        return None
    wanted = [
        dims[axis] if length == 0 and not allowzero else length
        for axis, length in enumerate(numbers)
    ]
    empty = np.broadcast_to(np.empty((), np.bool_), dims)
    if -1 in wanted:
        known = int(np.prod([length for length in wanted if length != -1]))
        if not known or empty.size % known:
            return None
        wanted[wanted.index(-1)] = empty.size // known
    return (
        tuple(wanted)
        if int(np.prod(wanted)) == empty.size and min(wanted, default=0) >= 0
        else None
    )


def _reshaped(tensor: ir.TensorProtocol, shape: tuple[int, ...], name: str) -> ir.TensorProtocol:
    """The same bytes under another shape."""
    if isinstance(tensor, ir.ExternalTensor):
        return ir.ExternalTensor(
            tensor.location,
            tensor.offset,
            tensor.length,
            tensor.dtype,
            shape=ir.Shape(shape),
            name=name,
            base_dir=tensor.base_dir,
        )

    def view() -> ir.TensorProtocol:
        return ir.Tensor(tensor.numpy().reshape(shape), dtype=tensor.dtype, name=name)

    return ir.LazyTensor(view, tensor.dtype, ir.Shape(shape), cache=True, name=name)


def _computed(
    compute: Callable[[], np.ndarray],
    dtype: ir.DataType,
    shape: tuple[int, ...],
    name: str,
    context: Context,
) -> ir.TensorProtocol:
    return ir.LazyTensor(
        lambda: context.tensor(compute(), name), dtype, ir.Shape(shape), cache=True, name=name
    )


def _replace(model: ir.Model, node: ir.Node, tensor: ir.TensorProtocol) -> None:
    """Put an initializer of the main graph, which all graphs see, in the place of ``node``."""
    output = node.outputs[0]
    taken = {value.name for value in model.graph.inputs} | set(model.graph.initializers)
    if node.graph is not model.graph:
        taken |= {value.name for each in model.graph for value in each.outputs}
    name, count = output.name or "weight", 0
    while name in taken:
        count += 1
        name = f"{output.name}_{count}"
    output.name = None
    value = ir.Value(
        name=name,
        type=ir.TensorType(tensor.dtype),
        shape=ir.Shape(tensor.shape.numpy()),
        const_value=tensor,
    )
    output.replace_all_uses_with(value)
    graph = node.graph
    if graph is not None:
        graph.remove(node, safe=True)
    model.graph.register_initializer(value)
