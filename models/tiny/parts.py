"""What the tiny graphs share: opening and closing a model, and layers as exporters write them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import onnxscript

from bitfold.models.scope import Scope, drop_builder_notes


def open_graph(opset: int) -> tuple[onnxscript.GraphBuilder, Scope]:
    """Returns a builder of an empty graph and its root scope."""
    graph = ir.Graph([], [], nodes=[], name="main_graph", opset_imports={"": opset})
    builder = onnxscript.GraphBuilder(graph)
    return builder, Scope(builder)


def close_graph(
    builder: onnxscript.GraphBuilder, outputs: Sequence[tuple[ir.Value, list[int | str]]]
) -> ir.Model:
    """Returns the model of a finished graph; `outputs` are float values with their shapes."""
    graph = builder.graph
    for value, shape in outputs:
        value.type = ir.TensorType(ir.DataType.FLOAT)
        value.shape = ir.Shape(shape)
        graph.outputs.append(value)
    drop_builder_notes(list(graph))
    return ir.Model(graph, ir_version=10, producer_name="bitfold")


def weight(at: Scope, name: str, array: np.ndarray) -> ir.Value:
    """Registers an array as an initializer of the graph."""
    return at.initializer(name, ir.tensor(np.ascontiguousarray(array), name=name))


def linear(
    at: Scope, name: str, x: ir.Value, w: np.ndarray, bias: np.ndarray, out: str | None = None
) -> ir.Value:
    """x·Wᵀ + b on the last axis of a 3-D tensor: MatMul with Wᵀ, then Add. W is [out, in]."""
    y = at.add("MatMul", x, weight(at, f"{name}.weight", w.T))
    return at.add("Add", weight(at, f"{name}.bias", bias), y, out=out)


def gemm(
    at: Scope, name: str, x: ir.Value, w: np.ndarray, bias: np.ndarray, out: str | None = None
) -> ir.Value:
    """x·Wᵀ + b on a 2-D tensor: Gemm with transB, as exporters write it there. W is [out, in]."""
    w_value, b_value = weight(at, f"{name}.weight", w), weight(at, f"{name}.bias", bias)
    return at.add("Gemm", x, w_value, b_value, out=out, alpha=1.0, beta=1.0, transB=1)


def dim(at: Scope, x: ir.Value, axis: int) -> ir.Value:
    """One dimension of x as i64[1]."""
    return at.add("Unsqueeze", at.add("Gather", at.add("Shape", x), axis, axis=0), [0])
