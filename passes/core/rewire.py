"""Small graph surgery that passes share: replace a weight, add a bias."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from bitfold.passes.core.context import Context


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The array of an initializer that is no graph input; None for anything else."""
    if value is None or not value.is_initializer() or value.is_graph_input():
        return None
    return None if value.const_value is None else value.const_value.numpy()


def vector(value: ir.Value | None, length: int) -> np.ndarray | None:
    """The array of a constant float vector of ``length`` elements; None for anything else."""
    if value is None or value.const_value is None or tuple(value.const_value.shape) != (length,):
        return None
    array = constant(value)
    return array if array is not None and array.dtype.kind == "f" else None


def new_initializer(graph: ir.Graph, context: Context, array: np.ndarray, name: str) -> ir.Value:
    """Register ``array`` under ``name``, or ``name_1``, ``name_2``… where that is taken."""
    unique, count = name, 0
    while unique in graph.initializers:
        count += 1
        unique = f"{name}_{count}"
    tensor = context.tensor(array, unique)
    value = ir.Value(
        name=unique,
        type=ir.TensorType(tensor.dtype),
        shape=ir.Shape(array.shape),
        const_value=tensor,
    )
    graph.register_initializer(value)
    return value


def shared_initializer(graph: ir.Graph, context: Context, array: np.ndarray, name: str) -> ir.Value:
    """The initializer ``name`` if it holds ``array`` already, else a new one."""
    found = constant(graph.initializers.get(name))
    if found is not None and found.dtype == array.dtype and np.array_equal(found, array):
        return graph.initializers[name]
    return new_initializer(graph, context, array, name)


def set_input(
    node: ir.Node, index: int, array: np.ndarray, context: Context, suffix: str = "folded"
) -> None:
    """Make the initializer that is input ``index`` of ``node`` hold ``array``.

    It keeps its name where no one else reads it; else the node gets a copy of its own.
    """
    old = node.inputs[index]
    graph = node.graph
    assert old is not None  # callers look at the weight first
    assert isinstance(graph, ir.Graph)
    if len(old.uses()) == 1 and not old.is_graph_output() and old.graph is graph:
        old.const_value = context.tensor(array, str(old.name))
        old.shape = ir.Shape(array.shape)
        return
    owner = node.name or node.outputs[0].name
    value = new_initializer(graph, context, array, f"{old.name}/{owner}/{suffix}")
    node.replace_input_with(index, value)


def bias_add(node: ir.Node) -> tuple[ir.Node, int] | None:
    """The Add of a constant vector that alone reads a MatMul, and which of its inputs that is."""
    output = node.outputs[0]
    users = list(output.uses())
    if output.is_graph_output() or len(users) != 1:
        return None
    add, index = users[0]
    if add.op_type != "Add" or add.domain != "" or add.graph is not node.graph:
        return None
    bias = add.inputs[1 - index]
    if bias is None or bias.const_value is None or len(bias.const_value.shape) != 1:
        return None
    return (add, 1 - index) if constant(bias) is not None else None


def add_bias(node: ir.Node, bias: np.ndarray, context: Context) -> None:
    """Add a vector over the output channels to what a MatMul, Gemm or Conv computes.

    An existing bias (Gemm's and Conv's own input, or the Add behind a MatMul) takes it up.  A new
    Add takes over the name of the value that the MatMul had, whose meaning it carries on.
    """
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    name = node.name or str(node.outputs[0].name)
    if node.op_type in ("Gemm", "Conv", "ConvTranspose"):
        old = node.inputs[2] if len(node.inputs) > 2 else None
        if old is not None:
            before = constant(old)
            assert before is not None  # callers refuse what is not constant
            set_input(node, 2, (before + bias).astype(before.dtype), context, "bias")
            return
        weight = node.inputs[1]
        assert weight is not None
        assert weight.dtype is not None
        value = new_initializer(
            graph, context, bias.astype(weight.dtype.numpy()), f"{weight.name}/bias"
        )
        node.resize_inputs(3)
        node.replace_input_with(2, value)
        return
    found = bias_add(node)
    if found is not None:
        add, index = found
        before = constant(add.inputs[index])
        assert before is not None
        if before.shape == bias.shape:
            set_input(add, index, (before + bias).astype(before.dtype), context, "bias")
            return
    weight = node.inputs[1]
    assert weight is not None
    assert weight.dtype is not None
    value = new_initializer(
        graph, context, bias.astype(weight.dtype.numpy()), f"{weight.name}/bias"
    )
    output = node.outputs[0]
    new = ir.node("Add", [output, value], name=f"{name}/bias")
    total = new.outputs[0]
    total.name, total.type, total.shape = output.name, output.type, output.shape
    graph.insert_after(node, new)
    users = [(user, index) for user, index in output.uses() if user is not new]
    for user, index in users:
        user.replace_input_with(index, total)
    for index, value_out in enumerate(graph.outputs):
        if value_out is output:
            graph.outputs[index] = total
    output.name = f"{total.name}/linear"
