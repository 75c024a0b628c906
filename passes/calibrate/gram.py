"""Let a graph itself compute the Gram matrix of what a site reads: no activation leaves it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis.conv_shape import stays_on_pixels
from bitfold.passes.analysis.sites import Site

WINDOW = ("strides", "pads", "dilations", "auto_pad")
"""Attributes of a convolution that say which patches it reads."""


def reading_of(site: Site) -> str:
    """What a site reads, in words: two that read the same have the same Gram matrix."""
    if site.conv is None:
        return str(site.data.name)
    window = [str(site.node.attributes.get(name)) for name in WINDOW]
    return " ".join([str(site.data.name), str(site.conv.kernel), *window])


def add_gram(graph: ir.Graph, site: Site, stem: str) -> str:
    """Append nodes that give the mean of ``x x^T`` over the rows that a site reads.

    A row is what one output value is a product of: the last axis of a matrix product's data; the
    patch under the kernel, in the weight's order (tap, channel), of a convolution.

    Args:
        site: of the main graph; no Gather, and no convolution with groups.
        graph: has a value of the name of what the site reads.
        stem: begins the names of all that is new.

    Returns:
        The name of a new value, [K, K].
    """
    build = _Builder(graph, stem)
    data = ir.convenience.create_value_mapping(graph, include_subgraphs=False)[str(site.data.name)]
    if site.conv is None:
        rows = build.node("Reshape", [data, build.ints(-1, site.shape[1])])
        turned = build.node("Transpose", [rows], {"perm": [1, 0]})
    else:
        rows, turned = build.patches(data, site)
    total = build.node("MatMul", [turned, rows])
    count = build.node("Shape", [rows], {"start": -2, "end": -1}, ir.DataType.INT64)
    divisor = build.node("Cast", [count], {"to": ir.DataType.FLOAT})
    return str(build.node("Div", [total, divisor]).name)


class _Builder:
    """Appends nodes to a graph."""

    def __init__(self, graph: ir.Graph, stem: str) -> None:
        self.graph = graph
        self.stem = stem
        self.made = 0

    def node(
        self,
        op: str,
        inputs: Sequence[ir.Value],
        attributes: Mapping[str, Any] | None = None,
        dtype: ir.DataType = ir.DataType.FLOAT,
    ) -> ir.Value:
        node = ir.node(op, inputs, attributes)
        value = node.outputs[0]
        value.name, value.dtype = self._name(), dtype
        self.graph.append(node)
        return value

    def ints(self, *numbers: int) -> ir.Value:
        return self.constant(np.array(numbers, np.int64))

    def constant(self, array: np.ndarray) -> ir.Value:
        name = self._name()
        value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
        self.graph.register_initializer(value)
        return value

    def patches(self, data: ir.Value, site: Site) -> tuple[ir.Value, ir.Value]:
        """What a convolution without groups multiplies: [rows, K] and [K, rows].

        Each place under the kernel is taken by a convolution with a kernel of one 1 in it.
        """
        conv = site.conv
        assert conv is not None, "asked for convolutions alone"
        if conv.taps > 1 or not stays_on_pixels(site.node):
            one_hot = np.eye(conv.taps, dtype=np.float32).reshape(conv.taps, 1, *conv.kernel)
            kernel = self.constant(np.tile(one_hot, (conv.cg, 1) + (1,) * len(conv.kernel)))
            found = site.node.attributes
            window = {name: found[name].value for name in WINDOW if name in found}
            data = self.node("Conv", [data, kernel], {**window, "group": conv.cg})
        split = self.node("Reshape", [data, self.ints(0, conv.cg, conv.taps, -1)])
        turned = self.node("Transpose", [split], {"perm": [2, 1, 0, 3]})
        columns = self.node("Reshape", [turned, self.ints(conv.k, -1)])
        return self.node("Transpose", [columns], {"perm": [1, 0]}), columns

    def _name(self) -> str:
        self.made += 1
        return f"{self.stem}.{self.made}"
