"""Put a quantized weight and its activation's quantizer into the graph, in the neutral form."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis.conv_shape import ConvShape
from bitfold.passes.analysis.sites import Site
from bitfold.passes.core.context import Context
from bitfold.passes.core.rewire import new_initializer, shared_initializer
from bitfold.passes.quantize.insert_beside import (
    add_factors,
    insert_branch,
    insert_plus,
    scale_input,
)
from bitfold.passes.quantize.low_rank import Branch
from bitfold.passes.quantize.rounding import QuantizedWeight
from bitfold.runtime.ops.body import call
from bitfold.runtime.ops.dequantize_weight import dequantize_attributes, dequantize_weight
from bitfold.runtime.ops.quantize_activation import activation_attributes, quantize_activation
from bitfold.runtime.ops.scale_floats import kind_of


class SiteInserter:
    """Rewrites sites one weight at a time; sites that read the same value share a quantizer."""

    def __init__(self, model: ir.Model, context: Context) -> None:
        self.model = model
        self.context = context
        self.activations: dict[tuple[ir.Value, int, int, int], ir.Value] = {}

    def insert(
        self,
        source: ir.Value,
        sites: Sequence[Site],
        quantized: QuantizedWeight,
        act_group_size: int | None,
        act_bits: int = 8,
        branch: Branch | None = None,
    ) -> None:
        """Make ``sites``, which share the weight ``source``, use ``quantized`` instead.

        Their inputs are rounded to ``act_bits`` bits per run of ``act_group_size`` channels, or
        stay as they are.  A ``branch`` reads them before that.  It is for matmuls alone, and so
        is a weight ``quantized.plus``, whose inputs are rounded in groups of its own, and to no
        fewer bits than it has.
        """
        stem = source.name or sites[0].name
        while f"{stem}.codes" in self.model.graph.initializers:
            stem += ".turned"  # the same weight in its other orientation, or a branch's own
        weight = self._dequantize(stem, quantized)
        main = self.model.graph
        factors = None if branch is None else add_factors(main, self.context, branch, stem)
        plus, turned_plus = quantized.plus, None
        if plus is not None:
            turned_plus = self._transpose(self._dequantize(f"{stem}.plus", plus), (1, 0))
        turned: ir.Value | None = None
        for site in sites:
            if site.kind == "gather":
                site.node.replace_input_with(0, weight)
                continue
            if site.data.shape is not None and len(site.data.shape) == 1:
                self._as_row(site.node)
            if site.kind == "gemm":
                site.node.replace_input_with(1, weight)
                site.node.attributes["transB"] = ir.AttrInt64("transB", 1)
            elif site.conv is not None:
                turned = turned or self._kernels(weight, site.conv)
                site.node.replace_input_with(1, turned)
            else:
                turned = turned or self._transpose(weight, (1, 0))
                site.node.replace_input_with(1, turned)
            if plus is not None and turned_plus is not None:
                data = site.data
                if act_group_size is not None:
                    size = _act_group(plus, act_group_size)
                    bits = max(act_bits, plus.scheme.number.bits)
                    data = self._activation(site, size, bits)
                insert_plus(site.node, data, turned_plus)
            if factors is not None:
                insert_branch(site.node, site.data, factors)
            if act_group_size is not None:
                site.node.replace_input_with(0, self._activation(site, act_group_size, act_bits))
        # Sites may share one Transpose; a dictionary keeps their order.
        for transpose in dict.fromkeys(site.transpose for site in sites):
            if transpose is not None and not transpose.outputs[0].uses():
                graph = transpose.graph
                assert graph is not None, "the node was found in a graph"
                graph.remove(transpose, safe=True)
        if not source.uses() and not source.is_graph_output():
            drop_initializer(source)

    def scale_inputs(self, source: ir.Value, sites: Sequence[Site], scales: np.ndarray) -> None:
        """Multiply what ``sites``, which share the weight ``source``, read by ``scales`` [K]."""
        value = self._initializer(f"{source.name or sites[0].name}.input_scales", scales)
        for site in sites:
            scale_input(site.node, value)

    def _dequantize(self, stem: str, quantized: QuantizedWeight) -> ir.Value:
        n, k = quantized.codes.shape
        number = quantized.scheme.number
        table, kind = number.table(), kind_of(quantized.scales)
        inputs = [
            self._initializer(f"{stem}.codes", quantized.codes),
            self._initializer(f"{stem}.scales", quantized.scales),
            self._optional(f"{stem}.zero_points", quantized.zero_points),
            self._optional(f"{stem}.table", table),
        ]
        function = dequantize_weight(
            k,
            quantized.group_size,
            number.bits,
            quantized.zero_points is not None,
            table is not None,
            kind,
        )
        size, factor = quantized.group_size, quantized.scale_factor
        attributes = dequantize_attributes(size, number.bits, kind, factor)
        node = call(self.model, function, inputs, attributes, f"{stem}.dequantize")
        return self._first(node, f"{stem}.dequantized", [n, k])

    def _kernels(self, weight: ir.Value, conv: ConvShape) -> ir.Value:
        """A Conv's weight [n, cg, *kernel] from [n, k], k in the order (tap, channel)."""
        dims = np.array([conv.n, *conv.kernel, conv.cg], np.int64)
        shape = self._initializer(f"{weight.name}.grid_shape", dims)
        node = ir.Node("", "Reshape", [weight, shape], name=f"{weight.name}.grid")
        grid = node.outputs[0]
        grid.name, grid.type, grid.shape = f"{weight.name}.gridded", weight.type, ir.Shape(dims)
        self._after(weight, node)
        return self._transpose(grid, conv.to_channels_first)

    def _transpose(self, weight: ir.Value, perm: Sequence[int]) -> ir.Value:
        node = ir.Node(
            "", "Transpose", [weight], [ir.AttrInt64s("perm", perm)], name=f"{weight.name}.turn"
        )
        assert weight.shape is not None, "made with a shape above"
        value = node.outputs[0]
        value.name, value.dtype = f"{weight.name}.turned", ir.DataType.FLOAT
        value.shape = ir.Shape([weight.shape[axis] for axis in perm])
        self._after(weight, node)
        return value

    def _after(self, value: ir.Value, node: ir.Node) -> None:
        producer = value.producer()
        assert producer is not None, "made by a node above"
        self.model.graph.insert_after(producer, node)

    def _as_row(self, matmul: ir.Node) -> None:
        """Make a vector times a matrix [1, K] times it: targets round and multiply rows."""
        graph, data, result = matmul.graph, matmul.inputs[0], matmul.outputs[0]
        assert graph is not None, "sites come from a graph"
        assert data is not None, "and have an input"
        first = np.zeros(1, np.int64)
        axis = shared_initializer(self.model.graph, self.context, first, "bitfold.axis_0")
        lift = ir.node("Unsqueeze", [data, axis], name=f"{result.name}.lift")
        drop = ir.node("Squeeze", [result, axis], name=f"{result.name}.drop")
        row, vector = lift.outputs[0], drop.outputs[0]
        row.name, row.type = f"{result.name}.input_row", data.type
        row.shape = ir.Shape([1, *(data.shape or ())])
        vector.name, vector.type, vector.shape = result.name, result.type, result.shape
        result.name = f"{result.name}.output_row"
        result.replace_all_uses_with(vector, replace_graph_outputs=True)
        drop.replace_input_with(0, result)
        result.shape = ir.Shape([1, *(vector.shape or [None])])
        matmul.replace_input_with(0, row)
        graph.insert_before(matmul, lift)
        graph.insert_after(matmul, drop)

    def _activation(self, site: Site, group_size: int, bits: int) -> ir.Value:
        # Where the value comes from: branches that read it see its rounded form there too.
        data, owner = site.data, site.data.graph
        assert owner is not None, "sites read what the graph defines"
        axis, k = (-1, site.shape[1]) if site.conv is None else (1, site.conv.channels)
        key = (data, group_size, bits, axis)
        if key not in self.activations:
            function = quantize_activation(k, group_size, bits, axis)
            attributes = activation_attributes(group_size, bits, axis)
            what = "pixels_" * (axis == 1) + f"int{bits}_" * (bits < 8)
            name = f"{data.name}.quantize_{what}g{group_size}"
            node = call(self.model, function, [data], attributes, name)
            value = node.outputs[0]
            value.name, value.type, value.shape = f"{name}d", data.type, data.shape
            producer = data.producer()
            if producer is not None:
                owner.insert_after(producer, node)
            else:
                owner.insert_before(owner[0], node)
            self.activations[key] = value
        return self.activations[key]

    def _first(self, node: ir.Node, name: str, dims: list[int]) -> ir.Value:
        """Insert at the graph's start: the node reads initializers alone."""
        value = node.outputs[0]
        value.name, value.dtype, value.shape = name, ir.DataType.FLOAT, ir.Shape(dims)
        self.model.graph.insert_before(self.model.graph.node(0), node)
        return value

    def _optional(self, name: str, array: np.ndarray | None) -> ir.Value | None:
        return None if array is None else self._initializer(name, array)

    def _initializer(self, name: str, array: np.ndarray) -> ir.Value:
        return new_initializer(self.model.graph, self.context, array, name)


def _act_group(plus: QuantizedWeight, size: int) -> int:
    """Inputs that share a scale for a weight that is added: ``size``, or as many as its own do."""
    return size if size in (plus.codes.shape[1], plus.group_size) else plus.group_size


def drop_initializer(value: ir.Value) -> None:
    """Remove an initializer that nothing uses any more."""
    graph = value.graph
    if graph is not None and value.name is not None:
        graph.initializers.pop(value.name, None)
