"""Widen half precision to float32: what passes compute and look for is float32 alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import onnx_ir as ir

from bitfold.runtime.ops import DOMAIN

Store = Callable[[np.ndarray, str], ir.TensorProtocol]
"""Makes the tensor of a name that holds an array, on disk where that is large."""

HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)

_TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype", "softmax_precision", "precision")
"""Attributes that name the type of what a node computes."""


def widen_floats(model: ir.Model, store: Store) -> Counter[str]:
    """Make float32 of every float16 and bfloat16 value, in place.

    1. Graph inputs and outputs keep their types: a Cast stands behind each input and before each
       output.
    2. Weights are widened when they are first read, one at a time, and live on disk from then on.
    3. Casts, constants and attributes that name a half type name float32.

    Rounding in between, which the halves brought, is gone: the result is closer to the model as
    it was trained.  Operands of bitfold's own operators stay: those read float16 scales.

    Args:
        store: keeps what is widened.

    Returns:
        How many weights of each half type were widened; an entry of 0 where a half type was
        found but no weight of it.
    """
    found: Counter[str] = Counter()
    if not any(dtype in HALVES for dtype in _types(model)):
        return found
    main = model.graph
    halves = [value.dtype if value.dtype in HALVES else None for value in main.outputs]
    for graph in model.graphs():
        for value in list(graph.initializers.values()):
            tensor = value.const_value
            if tensor is None or value.is_graph_input() or _only_native(value):
                continue
            if tensor.dtype in HALVES:
                found[str(tensor.dtype)] += 1
                value.const_value = _widened(tensor, store)
                value.dtype = ir.DataType.FLOAT
        for node in graph:
            _widen_attributes(node, store, found)
            if node.domain != DOMAIN:
                for output in node.outputs:
                    output.type = _widened_type(output.type, found)
    for graph in model.graphs():
        if graph is not main:
            for value in graph.inputs:
                value.type = _widened_type(value.type, found)
    _cast_inputs(main, found)
    _cast_outputs(main, halves)
    return found


def _types(model: ir.Model) -> Iterator[ir.DataType | None]:
    """The types of what ``model`` holds and computes, as far as they are told."""
    for graph in model.graphs():
        for value in [*graph.inputs, *graph.outputs]:
            yield value.dtype
        for value in graph.initializers.values():
            if value.const_value is not None and not _only_native(value):
                yield value.const_value.dtype
        for node in graph:
            for output in node.outputs:
                yield output.dtype
            for name, attribute in node.attributes.items():
                if attribute.is_ref():
                    continue
                if attribute.type == ir.AttributeType.TENSOR:
                    yield attribute.as_tensor().dtype
                elif attribute.type == ir.AttributeType.INT and name in _TYPE_ATTRIBUTES:
                    yield next((half for half in HALVES if half == attribute.value), None)


def _only_native(value: ir.Value) -> bool:
    """Whether none but bitfold's own operators read ``value``."""
    users = [node for node, _ in value.uses()]
    return bool(users) and all(node.domain == DOMAIN for node in users)


def _widened(tensor: ir.TensorProtocol, store: Store) -> ir.TensorProtocol:
    """The tensor in float32: computed when it is first read, then kept on disk if it is large."""
    name = tensor.name or ""

    def widen() -> ir.TensorProtocol:
        return store(tensor.numpy().astype(np.float32), name)

    shape = ir.Shape(tensor.shape.numpy())
    return ir.LazyTensor(widen, ir.DataType.FLOAT, shape, cache=True, name=name)


def _widened_type(kind: ir.TypeProtocol | None, found: Counter[str]) -> ir.TypeProtocol | None:
    """A type with its halves widened, inside sequences and optionals too."""
    if kind is None or kind.dtype not in HALVES:
        return kind
    found[str(kind.dtype)] += 0
    return _retyped(kind)


def _retyped(kind: ir.TypeProtocol) -> ir.TypeProtocol:
    if isinstance(kind, ir.TensorType):
        return ir.TensorType(ir.DataType.FLOAT)
    if isinstance(kind, ir.SequenceType):
        return ir.SequenceType(_retyped(kind.elem_type))
    if isinstance(kind, ir.OptionalType):
        return ir.OptionalType(_retyped(kind.elem_type))
    return kind


def _widen_attributes(node: ir.Node, store: Store, found: Counter[str]) -> None:
    for name, attribute in list(node.attributes.items()):
        if attribute.is_ref() or node.domain == DOMAIN:
            continue
        if attribute.type == ir.AttributeType.TENSOR:
            tensor = attribute.as_tensor()
            if tensor.dtype in HALVES:
                found[str(tensor.dtype)] += 1
                node.attributes[name] = ir.AttrTensor(name, _widened(tensor, store))
        elif attribute.type == ir.AttributeType.INT and name in _TYPE_ATTRIBUTES:
            for half in HALVES:
                if half == attribute.value:
                    found[str(half)] += 0
                    node.attributes[name] = ir.AttrInt64(name, int(ir.DataType.FLOAT))


def _cast_inputs(graph: ir.Graph, found: Counter[str]) -> None:
    first = graph[0] if len(graph) else None
    for value in graph.inputs:
        readers = [use for use in value.uses() if use.node.domain != DOMAIN]
        if value.dtype not in HALVES or not readers or first is None:
            continue
        found[str(value.dtype)] += 0
        cast = _cast(value, ir.DataType.FLOAT, f"{value.name}/wide")
        cast.outputs[0].shape = value.shape
        for node, index in readers:
            node.replace_input_with(index, cast.outputs[0])
        graph.insert_before(first, cast)


def _cast_outputs(graph: ir.Graph, halves: list[ir.DataType | None]) -> None:
    """Put a Cast back to its half type before each output that has lost it."""
    for index, (value, half) in enumerate(zip(list(graph.outputs), halves, strict=True)):
        if half is None or value.is_graph_input():
            continue
        name = value.name
        value.name = f"{name}/wide"
        cast = _cast(value, half, str(name))
        cast.outputs[0].shape = value.shape
        graph.append(cast)
        graph.outputs[index] = cast.outputs[0]


def _cast(value: ir.Value, dtype: ir.DataType, name: str) -> ir.Node:
    node = ir.node("Cast", [value], {"to": int(dtype)}, name=f"{name}/Cast")
    node.outputs[0].name = name
    node.outputs[0].type = ir.TensorType(dtype)
    return node
