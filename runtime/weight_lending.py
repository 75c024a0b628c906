"""Hand a model's weights to ONNX Runtime where they lie, without a copy.

A weight in a file is referenced there, and ORT maps the same bytes; one in memory is lent.  Only
small ones travel inside the serialized graph.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import onnxruntime as ort

EMBED_BELOW = 1 << 14
"""Tensors smaller than this many bytes are embedded: shape inference reads the small ones."""


def detach_weights(
    model: ir.Model, options: ort.SessionOptions, folder: Path, optimize: bool
) -> list[Any]:
    """Replace large weights by references, in place; return the arrays that ORT borrows.

    ORT resolves references against one folder, so that folder is the file system's root.
    """
    graph = model.graph
    stub = folder / "in-memory"
    stub.touch()
    root = stub.resolve().anchor
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", root)
    _lift_constants(graph)
    for inner in _subgraphs(graph):
        _detach_inner_weights(inner, root)
    borrowed: list[Any] = []
    copied: dict[str, Any] = {}
    for name, value in graph.initializers.items():
        tensor = value.const_value
        if tensor is None or tensor.dtype == ir.DataType.STRING:
            continue
        if tensor.nbytes < EMBED_BELOW or value.is_graph_input():
            value.const_value = _embedded(tensor)
            continue
        place = _place_on_disk(tensor)
        if place is not None and Path(place[0]).anchor == root:
            value.const_value = _reference(tensor, name, root, *place)
            continue
        lent = _lend(tensor)
        if lent is None:
            value.const_value = _embedded(tensor)
            continue
        # ORT's optimizer would read a lent weight from the (empty) stub: it gets a copy.
        if optimize:
            copied[name] = lent
        else:
            options.add_initializer(name, lent)
        borrowed.append(lent)
        value.const_value = _reference(tensor, name, root, stub, 0)
    if copied:
        options.add_external_initializers(list(copied), list(copied.values()))
    return borrowed


def _detach_inner_weights(graph: ir.Graph, root: str) -> None:
    """Make a subgraph's weights independent of the model's folder; ORT borrows none of them."""
    for name, value in graph.initializers.items():
        tensor = value.const_value
        if tensor is None or tensor.dtype == ir.DataType.STRING:
            continue
        place = _place_on_disk(tensor) if tensor.nbytes >= EMBED_BELOW else None
        if place is not None and Path(place[0]).anchor == root:
            value.const_value = _reference(tensor, name, root, *place)
        else:
            value.const_value = _embedded(tensor)


def _subgraphs(graph: ir.Graph) -> Iterator[ir.Graph]:
    """The graphs inside the nodes of ``graph``, at any depth."""
    for node in graph.all_nodes():
        for attribute in node.attributes.values():
            if attribute.is_ref():
                continue
            if attribute.type == ir.AttributeType.GRAPH:
                yield attribute.as_graph()
            elif attribute.type == ir.AttributeType.GRAPHS:
                yield from attribute.as_graphs()


def _lift_constants(graph: ir.Graph) -> None:
    """Turn large Constant nodes into initializers, so that they too can be references."""
    for node in list(graph):
        if node.op_type != "Constant" or node.domain != "" or "value" not in node.attributes:
            continue
        tensor = node.attributes["value"].as_tensor()
        value = node.outputs[0]
        if tensor.nbytes < EMBED_BELOW or value.is_graph_output():
            continue
        name = value.name
        value.const_value = None  # naming a value names its tensor, which others share
        value.name = None
        lifted = ir.Value(name=name, const_value=tensor, type=value.type, shape=value.shape)
        value.replace_all_uses_with(lifted)
        graph.remove(node, safe=True)
        graph.register_initializer(lifted)


def _place_on_disk(tensor: ir.TensorProtocol) -> tuple[str, int] | None:
    """The file and the offset at which the tensor's bytes lie as they are, or None."""
    if isinstance(tensor, ir.ExternalTensor):
        return os.path.realpath(tensor.path), tensor.offset or 0
    # A lazy tensor's raw form is the function that makes it.
    raw = tensor.numpy() if isinstance(tensor, ir.LazyTensor) else tensor.raw
    if not isinstance(raw, np.ndarray) or not raw.flags.c_contiguous:
        return None
    if raw.nbytes != tensor.nbytes:  # one code a byte in memory, several in ONNX
        return None
    # Walk to the array that made the mapping: a view keeps the parent's (wrong) offset.
    owner: Any = raw
    while isinstance(owner, np.ndarray) and isinstance(owner.base, np.ndarray):
        owner = owner.base
    if not isinstance(owner, np.memmap) or not isinstance(owner.base, mmap.mmap):
        return None
    if owner.filename is None or owner.mode != "r" or not os.path.exists(owner.filename):
        return None
    return os.path.realpath(owner.filename), owner.offset + raw.ctypes.data - owner.ctypes.data


def _reference(
    tensor: ir.TensorProtocol, name: str, root: str, path: str | Path, offset: int
) -> ir.ExternalTensor:
    return ir.ExternalTensor(
        os.path.relpath(path, root),
        offset,
        tensor.nbytes,
        tensor.dtype,
        shape=ir.Shape(tensor.shape.numpy()),
        name=name,
        base_dir=root,
    )


def _embedded(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    if isinstance(tensor, ir.ExternalTensor):
        return ir.Tensor(tensor.numpy(), dtype=tensor.dtype, shape=tensor.shape, name=tensor.name)
    return tensor


def _lend(tensor: ir.TensorProtocol) -> Any | None:
    """The tensor as an ORT value over the same memory, or None where ORT has no such value."""
    array = np.ascontiguousarray(tensor.numpy()).reshape(tensor.shape.numpy())
    if array.nbytes != tensor.nbytes:
        return None
    if array.dtype.type.__module__ == ml_dtypes.__name__ or array.dtype.kind == "V":
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, int(tensor.dtype))
    return ort.OrtValue.ortvalue_from_numpy(array)
