"""Check the tensors of an ONNX file before anything reads them.

A wrong size or a path outside the model's folder shows here, with the tensor's name, and not as
a crash inside a pass or as bytes of another file in the weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx
import onnx_ir as ir

from bitfold.runtime.errors import ModelError, UnsupportedError

_TYPED_FIELDS = {
    ir.DataType.FLOAT: "float_data",
    ir.DataType.COMPLEX64: "float_data",
    ir.DataType.DOUBLE: "double_data",
    ir.DataType.COMPLEX128: "double_data",
    ir.DataType.INT64: "int64_data",
    ir.DataType.UINT64: "uint64_data",
    ir.DataType.UINT32: "uint64_data",
    ir.DataType.STRING: "string_data",
}
"""The repeated field that holds a type's values where they are not raw; int32_data for the rest."""


def check_tensors(proto: onnx.ModelProto, where: str, folder: Path | None) -> None:
    """Check every tensor of a model, in subgraphs, attributes and functions too.

    Args:
        proto: the model.
        where: how errors name it.
        folder: the folder that external data must lie in, or None where there is none.

    Raises:
        ModelError: a tensor whose bytes are missing, too few, too many or out of bounds.
        UnsupportedError: a sparse initializer, or a data type this version does not know.
    """
    for tensor in all_tensors(proto):
        _check_tensor(tensor, f"{where}: tensor {tensor.name or '(unnamed)'}", folder)


def all_tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of a model: initializers and attribute values, at any depth."""
    yield from _graph_tensors(proto.graph)
    for function in proto.functions:
        for node in function.node:
            yield from _node_tensors(node)


def _graph_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    if graph.sparse_initializer:
        raise UnsupportedError(
            f"graph {graph.name}: sparse initializer {graph.sparse_initializer[0].values.name}",
            hint="export the model with dense weights",
        )
    yield from graph.initializer
    for node in graph.node:
        yield from _node_tensors(node)


def _node_tensors(node: onnx.NodeProto) -> Iterator[onnx.TensorProto]:
    for attribute in node.attribute:
        missing = attribute.type == onnx.AttributeProto.TENSOR and not attribute.ref_attr_name
        if attribute.HasField("t") or missing:
            yield attribute.t
        yield from attribute.tensors
        if attribute.HasField("g"):
            yield from _graph_tensors(attribute.g)
        for graph in attribute.graphs:
            yield from _graph_tensors(graph)


def _check_tensor(tensor: onnx.TensorProto, where: str, folder: Path | None) -> None:
    try:
        dtype = ir.DataType(tensor.data_type)
    except ValueError:
        raise UnsupportedError(f"{where}: unknown data type {tensor.data_type}") from None
    if dtype == ir.DataType.UNDEFINED:
        raise ModelError(f"{where}: has no data type")
    if any(d < 0 for d in tensor.dims):
        raise ModelError(f"{where}: shape {list(tensor.dims)} has a negative dimension")
    count = math.prod(tensor.dims)
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        _check_external(tensor, where, folder, _byte_size(dtype, count, where))
    elif tensor.HasField("raw_data"):
        _expect(where, "bytes", _byte_size(dtype, count, where), len(tensor.raw_data))
    else:
        field = _TYPED_FIELDS.get(dtype, "int32_data")
        expected = count
        if dtype in (ir.DataType.COMPLEX64, ir.DataType.COMPLEX128):
            expected = 2 * count
        elif field == "int32_data" and dtype.bitwidth < 8:
            # Sub-byte values are packed into bytes, and one int32 carries one byte.
            expected = -(-count * dtype.bitwidth // 8)
        _expect(where, "values", expected, len(getattr(tensor, field)))


def _check_external(
    tensor: onnx.TensorProto, where: str, folder: Path | None, expected: int
) -> None:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if folder is None:
        raise ModelError(
            f"{where}: its data is in the file {location!r}, but the model came without a folder",
            hint="load the model by its path",
        )
    path = _contained(location, where, folder)
    offset, length = (_integer(entries, key, where) for key in ("offset", "length"))
    if length is not None:
        _expect(where, "bytes of external data", expected, length)
    size = path.stat().st_size
    end = (offset or 0) + expected
    if end > size:
        raise ModelError(
            f"{where}: {path.name} is too short, expected at least {end} bytes, found {size}",
            hint="copy or fetch the data file again",
        )


def _contained(location: str, where: str, folder: Path) -> Path:
    """The data file's path, which must not leave the model's folder."""
    if not location:
        raise ModelError(f"{where}: its external data names no file")
    # Models travel between systems: a path that is absolute on either one is refused on both.
    absolute = PurePosixPath(location).is_absolute() or bool(PureWindowsPath(location).anchor)
    parts = {*PurePosixPath(location).parts, *PureWindowsPath(location).parts}
    path = folder / location
    root = folder.resolve()
    if absolute or ".." in parts or not path.resolve().is_relative_to(root):
        raise ModelError(
            f"{where}: its external data {location!r} lies outside the model's folder",
            hint="put the data file itself (not a link) beside the model",
        )
    if not path.is_file():
        raise ModelError(
            f"{where}: its data file {location!r} is missing",
            hint=f"put it beside the model, in {folder}",
        )
    return path


def _integer(entries: dict[str, str], key: str, where: str) -> int | None:
    text = entries.get(key)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()):
        raise ModelError(f"{where}: external data {key}: expected a number, found {text!r}")
    return int(text)


def _byte_size(dtype: ir.DataType, count: int, where: str) -> int:
    if dtype == ir.DataType.STRING:
        raise ModelError(f"{where}: strings cannot be stored as raw or external data")
    return -(-count * dtype.bitwidth // 8)


def _expect(where: str, what: str, expected: int, found: int) -> None:
    if expected != found:
        raise ModelError(f"{where}: expected {expected} {what} for its shape, found {found}")
