"""Slices that cut the last axis of one value into all its parts become one Split."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from bitfold.passes.canonicalize.rules import ints, last_dim
from bitfold.passes.core.report import PassEntry


def split_slices(model: ir.Model, entry: PassEntry) -> bool:
    """Rewrite the Slices of a fused projection (query, key, value; gate, up) as one Split.

    They must be plain cuts at constants, side by side, that together cover an axis of known size.
    Values keep their names.
    """
    changed = False
    readers: dict[ir.Value, list[tuple[int, int, ir.Node]]] = {}
    for node in model.graph:
        found = _cut(node)
        if found is not None and node.inputs[0] is not None:
            readers.setdefault(node.inputs[0], []).append((*found, node))
    for value, cuts in readers.items():
        cuts.sort(key=lambda cut: cut[:2])
        bounds = [0, *[end for _, end, _ in cuts]]
        covered = [start for start, _, _ in cuts] == bounds[:-1] and bounds[-1] == last_dim(value)
        if len(cuts) > 1 and covered and bounds == sorted(set(bounds)):
            _split(model.graph, value, cuts)
            entry.changed(str(value.name), f"{len(cuts)} Slices became one Split")
            changed = True
    return changed


def _cut(node: ir.Node) -> tuple[int, int] | None:
    """The range of the last axis that a plain Slice takes; None for other nodes."""
    source = node.inputs[0] if node.inputs else None
    if node.op_type != "Slice" or node.domain != "" or source is None or source.shape is None:
        return None
    size, rank = last_dim(source), len(source.shape)
    numbers = [ints(value) for value in node.inputs[1:]]
    if size is None or len(numbers) < 3 or any(each is None or len(each) != 1 for each in numbers):
        return None
    start, end, axis, *step = (each[0] for each in numbers if each is not None)
    if axis % rank != rank - 1 or step not in ([], [1]):
        return None
    bounds = [min(each, size) if each >= 0 else max(each + size, 0) for each in (start, end)]
    return bounds[0], bounds[1]


def _split(graph: ir.Graph, value: ir.Value, cuts: list[tuple[int, int, ir.Node]]) -> None:
    nodes = [node for _, _, node in cuts]
    name = f"{value.name}/sizes"
    while name in graph.initializers:
        name += "_"
    sizes = np.array([end - start for start, end, _ in cuts], np.int64)
    lengths = ir.Value(
        name=name, type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([len(cuts)])
    )
    lengths.const_value = ir.tensor(sizes, name=name)
    graph.register_initializer(lengths)
    split = ir.node(
        "Split", [value, lengths], {"axis": -1}, num_outputs=len(cuts), name=f"{value.name}/Split"
    )
    first = next(node for node in graph if node in set(nodes))
    graph.insert_before(first, split)
    ir.convenience.replace_nodes_and_values(
        graph, split, nodes, [], [node.outputs[0] for node in nodes], list(split.outputs)
    )
