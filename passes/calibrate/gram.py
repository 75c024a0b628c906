"""Let a graph itself compute the Gram matrix of what a site reads: no activation leaves it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis.conv_shape import stays_on_pixels
from bitfold.passes.analysis.sites import Site
from bitfold.passes.calibrate.append import Appender

WINDOW = ("strides", "pads", "dilations", "auto_pad")
"""Attributes of a convolution that say which patches it reads."""


def reading_of(site: Site) -> str:
    """What a site reads, in words: two that read the same have the same Gram matrix."""
    if site.conv is None:
        return str(site.data.name)
    window = [str(site.node.attributes.get(name)) for name in WINDOW]
    return " ".join([str(site.data.name), str(site.conv.kernel), *window])


def add_gram(graph: ir.Graph, site: Site, stem: str, weights: ir.Value | None = None) -> str:
    """Append nodes that give the mean of ``x x^T`` over the rows that a site reads.

    A row is what one output value is a product of: the last axis of a matrix product's data; the
    patch under the kernel, in the weight's order (tap, channel), of a convolution.

    Args:
        site: of the main graph; no Gather, and no convolution with groups.
        graph: has a value of the name of what the site reads.
        stem: begins the names of all that is new.
        weights: of the graph, [rows]: how much each row counts; all alike by default.

    Returns:
        The name of a new value, [K, K]; zeros where there are no rows, or none that counts.
    """
    build = Appender(graph, stem)
    data = ir.convenience.create_value_mapping(graph, include_subgraphs=False)[str(site.data.name)]
    if site.conv is None:
        rows = build.node("Reshape", [data, build.ints(-1, site.shape[1])])
        turned = build.node("Transpose", [rows], {"perm": [1, 0]})
    else:
        rows, turned = _patches(build, data, site)
    if weights is None:
        divisor = build.node("Cast", [build.shape(rows, -2, -1)], {"to": ir.DataType.FLOAT})
    else:
        turned = build.node("Mul", [turned, weights])
        divisor = build.node("ReduceSum", [weights], {"keepdims": 0})
    some = build.node("Max", [divisor, build.floats(1e-30)])
    return str(build.node("Div", [build.node("MatMul", [turned, rows]), some]).name)


def _patches(build: Appender, data: ir.Value, site: Site) -> tuple[ir.Value, ir.Value]:
    """What a convolution without groups multiplies: [rows, K] and [K, rows].

    Each place under the kernel is taken by a convolution with a kernel of one 1 in it.
    """
    conv = site.conv
    assert conv is not None, "asked for convolutions alone"
    if conv.taps > 1 or not stays_on_pixels(site.node):
        one_hot = np.eye(conv.taps, dtype=np.float32).reshape(conv.taps, 1, *conv.kernel)
        kernel = build.constant(np.tile(one_hot, (conv.cg, 1) + (1,) * len(conv.kernel)))
        found = site.node.attributes
        window = {name: found[name].value for name in WINDOW if name in found}
        data = build.node("Conv", [data, kernel], {**window, "group": conv.cg})
    split = build.node("Reshape", [data, build.ints(0, conv.cg, conv.taps, -1)])
    turned = build.node("Transpose", [split], {"perm": [2, 1, 0, 3]})
    columns = build.node("Reshape", [turned, build.ints(conv.k, -1)])
    return build.node("Transpose", [columns], {"perm": [1, 0]}), columns
