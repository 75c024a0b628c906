"""Put what is added to a quantized weight beside its site: other products, and an Add."""

from __future__ import annotations

import onnx_ir as ir

from bitfold.passes.core.context import Context
from bitfold.passes.core.rewire import bias_add, new_initializer
from bitfold.passes.quantize.low_rank import Branch

Factors = tuple[ir.Value, ir.Value]
"""D turned, float32 [K, R], and U turned, float32 [R, N]."""


def add_factors(graph: ir.Graph, context: Context, branch: Branch, stem: str) -> Factors:
    """Put the factors of ``branch`` into ``graph``.

    In float16 they stay so in the file, each behind a Cast, which runtimes fold when they load it.
    """
    values = []
    for array, what in ((branch.down.T, "down"), (branch.up.T, "up")):
        name = f"{stem}.branch_{what}"
        value = new_initializer(graph, context, array, name)
        if value.dtype != ir.DataType.FLOAT:
            cast = ir.node("Cast", [value], {"to": ir.DataType.FLOAT}, name=f"{value.name}.cast")
            wide = cast.outputs[0]
            wide.name, wide.dtype, wide.shape = f"{value.name}.wide", ir.DataType.FLOAT, value.shape
            graph.insert_before(graph.node(0), cast)
            value = wide
        values.append(value)
    return values[0], values[1]


def scale_input(site: ir.Node, scales: ir.Value) -> None:
    """Multiply the input [..., K] of a MatMul or Gemm by ``scales`` [K]."""
    data, graph = site.inputs[0], site.graph
    assert data is not None, "a site has its input"
    assert graph is not None, "sites come from a graph"
    mul = ir.node("Mul", [data, scales], name=f"{site.outputs[0].name}/input_scaled")
    scaled = mul.outputs[0]
    scaled.name, scaled.type, scaled.shape = mul.name, data.type, data.shape
    graph.insert_before(site, mul)
    site.replace_input_with(0, scaled)


def insert_branch(site: ir.Node, data: ir.Value, factors: Factors) -> None:
    """Add ``data`` times both factors to what a MatMul or Gemm computes.

    Args:
        site: the node.
        data: its input [..., K] before it is rounded.
        factors: as :func:`add_factors` makes them.
    """
    output = site.outputs[0]
    down = _product(data, factors[0], output, f"{output.name}/branch_down")
    up = _product(down.outputs[0], factors[1], output, f"{output.name}/branch_up")
    _add_to(output, [down, up], f"{output.name}/branch")


def insert_plus(site: ir.Node, data: ir.Value, weight: ir.Value) -> None:
    """Add ``data`` [..., K] times ``weight`` [K, N] to what a MatMul or Gemm computes.

    It is added behind a bias, where a kernel has room for both.
    """
    found = bias_add(site)
    output = site.outputs[0] if found is None else found[0].outputs[0]
    _add_to(output, [_product(data, weight, output, f"{output.name}/plus")], f"{output.name}/sum")


def _product(data: ir.Value, weight: ir.Value, like: ir.Value, name: str) -> ir.Node:
    """A MatMul whose result has the leading axes of ``like``."""
    node = ir.node("MatMul", [data, weight], name=name)
    value = node.outputs[0]
    value.name, value.dtype = name, ir.DataType.FLOAT
    if like.shape is not None and weight.shape is not None:
        value.shape = ir.Shape([*like.shape[:-1], weight.shape[-1]])
    return node


def _add_to(output: ir.Value, nodes: list[ir.Node], name: str) -> None:
    """Add the result of ``nodes`` to ``output``, whose name the Add takes over with its meaning."""
    producer = output.producer()
    assert producer is not None, "it is what a site computes"
    assert producer.graph is not None, "sites come from a graph"
    add = ir.node("Add", [output, nodes[-1].outputs[0]], name=name)
    total, kept = add.outputs[0], output.name
    total.type, total.shape = output.type, output.shape
    output.replace_all_uses_with(total, replace_graph_outputs=True)
    add.replace_input_with(0, output)
    output.name, total.name = f"{name}/codes", kept
    producer.graph.insert_after(producer, [*nodes, add])
