"""Rotations that are computed while the model runs, where no free one reaches."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis.site_weights import set_site_weight
from bitfold.passes.analysis.sites import Site
from bitfold.passes.core.context import Context
from bitfold.passes.core.rewire import shared_initializer
from bitfold.runtime.hadamard import base_matrix, hadamard_base, hadamard_transform, largest_block
from bitfold.runtime.ops.body import call
from bitfold.runtime.ops.hadamard import hadamard


def rotate_input(model: ir.Model, sites: list[Site], context: Context) -> int:
    """Multiply what ``sites``, which read one value, read by a Hadamard matrix, and their weights.

    Returns:
        The order of the matrix's blocks.
    """
    data, channels = sites[0].data, sites[0].shape[1]
    size = largest_block(channels)
    node = hadamard_node(model, data, size, f"{sites[0].name}/Hadamard", context)
    model.graph.insert_before(sites[0].node, node)
    for site in sites:
        set_site_weight(site, hadamard_transform(site.weight(), size), context)
        site.node.replace_input_with(0, node.outputs[0])
    return size


def hadamard_node(
    model: ir.Model, x: ir.Value, size: int, name: str, context: Context, inverse: bool = False
) -> ir.Node:
    """A ``bitfold.Hadamard`` of ``x`` or its inverse, not yet in the graph."""
    order, _ = hadamard_base(size)
    base = None
    if order > 1:
        matrix = base_matrix(order)
        way = ".inverse" if inverse and not np.array_equal(matrix, matrix.T) else ""
        matrix = np.ascontiguousarray(matrix.T) if way else matrix
        base = shared_initializer(model.graph, context, matrix, f"bitfold.hadamard.{order}{way}")
    node = call(model, hadamard(size, order), [x, base], {"size": size}, name)
    output = node.outputs[0]
    output.name, output.type, output.shape = name, x.type, x.shape
    return node
