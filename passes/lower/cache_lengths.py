"""How many keys count, computed once for all layers: what operators with a cache are given."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from bitfold.passes.core.context import Context
from bitfold.passes.core.rewire import new_initializer


def native_lengths(graph: ir.Graph, context: Context, keep: ir.Value) -> tuple[ir.Value, ir.Value]:
    """FusedAttention's: keys that count, i64[batch], and the total length, i64[1].

    Args:
        graph: where the nodes that compute them go, at its beginning.
        context: of the run.
        keep: the attention mask [batch, total].
    """
    tape = ir.tape.Tape()
    lengths = tape.op("ReduceSum", [_whole(tape, keep), _one(graph, context)], {"keepdims": 0})
    total = tape.op("Shape", [keep], {"start": 1, "end": 2})
    lengths.name, total.name = "bitfold.lengths", "bitfold.total_length"
    graph.insert_before(graph[0], _named(tape.nodes))
    return lengths, total


def ort_lengths(
    graph: ir.Graph, context: Context, keep: ir.Value | None, q: ir.Value, past_key: ir.Value
) -> tuple[ir.Value, ir.Value]:
    """GroupQueryAttention's: each row's last position, i32[batch], and the total length, i32[].

    Args:
        graph: where the nodes that compute them go.
        context: of the run.
        keep: the attention mask [batch, total], or None where every key counts.
        q: the query's projection [batch, new, ...].
        past_key: [batch, heads, past, head].
    """
    tape = ir.tape.Tape()
    one = _one(graph, context)
    if keep is not None:
        summed = tape.op("ReduceSum", [_whole(tape, keep), one], {"keepdims": 0})
        last = tape.op("Sub", [summed, one])
        size = tape.op("Shape", [keep], {"start": 1, "end": 2})
    else:
        past = tape.op("Shape", [past_key], {"start": 2, "end": 3})
        new = tape.op("Shape", [q], {"start": 1, "end": 2})
        size = tape.op("Add", [past, new])
        batch = tape.op("Shape", [past_key], {"start": 0, "end": 1})
        last = tape.op("Expand", [tape.op("Sub", [size, one]), batch])
    seqlens = tape.op("Cast", [last], {"to": int(ir.DataType.INT32)})
    zero = new_initializer(graph, context, np.array([0], np.int64), "bitfold.zero")
    total = tape.op("Cast", [tape.op("Squeeze", [size, zero])], {"to": int(ir.DataType.INT32)})
    seqlens.name, total.name = "bitfold.seqlens_k", "bitfold.total_sequence_length"
    if keep is not None:
        graph.insert_before(graph[0], _named(tape.nodes))
    else:
        producer = q.producer()
        assert producer is not None  # a projection
        graph.insert_after(producer, _named(tape.nodes))
    return seqlens, total


def _whole(tape: ir.tape.Tape, keep: ir.Value) -> ir.Value:
    if keep.dtype == ir.DataType.INT64:
        return keep
    return tape.op("Cast", [keep], {"to": int(ir.DataType.INT64)})


def _one(graph: ir.Graph, context: Context) -> ir.Value:
    return new_initializer(graph, context, np.array([1], np.int64), "bitfold.one")


def _named(nodes: Sequence[ir.Node]) -> list[ir.Node]:
    for number, node in enumerate(nodes):
        node.name = f"bitfold/lengths/{node.op_type}_{number}"
        if node.outputs[0].name is None:
            node.outputs[0].name = f"{node.name}_output_0"
    return list(nodes)
