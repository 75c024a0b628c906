"""Put a low-rank branch beside a site: two thin MatMuls of its float input, and an Add."""

from __future__ import annotations

import onnx_ir as ir

from bitfold.passes.core.context import Context
from bitfold.passes.core.rewire import new_initializer
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


def insert_branch(site: ir.Node, data: ir.Value, factors: Factors) -> None:
    """Add ``data`` times both factors to what a MatMul or Gemm computes.

    The Add takes over the name of the value that the site had, whose meaning it carries on.

    Args:
        site: the node.
        data: its input [..., K] before it is rounded.
        factors: as :func:`add_factors` makes them.
    """
    graph, output = site.graph, site.outputs[0]
    assert graph is not None, "sites come from a graph"
    name = output.name
    down = ir.node("MatMul", [data, factors[0]], name=f"{name}/branch_down")
    up = ir.node("MatMul", [down.outputs[0], factors[1]], name=f"{name}/branch_up")
    add = ir.node("Add", [output, up.outputs[0]], name=f"{name}/branch")
    lead = None if output.shape is None else output.shape[:-1]
    for node, width in ((down, factors[0].shape), (up, factors[1].shape)):
        value = node.outputs[0]
        value.name, value.dtype = node.name, ir.DataType.FLOAT
        if lead is not None and width is not None:
            value.shape = ir.Shape([*lead, width[-1]])
    total = add.outputs[0]
    total.type, total.shape = output.type, output.shape
    output.replace_all_uses_with(total, replace_graph_outputs=True)
    add.replace_input_with(0, output)
    output.name, total.name = f"{name}/codes", name
    graph.insert_after(site, [down, up, add])
