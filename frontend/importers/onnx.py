"""Load an ONNX model, with its weights left in their file."""

from __future__ import annotations

import os
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from bitfold.frontend.importers.free_dims import free_negative_dims
from bitfold.frontend.importers.tensor_checks import check_tensors
from bitfold.passes.core.invariants import check_invariants, label_of
from bitfold.runtime.errors import ModelError, UnsupportedError

SUFFIXES = (".onnx",)
OLDEST_OPSET = 6
"""The oldest default-domain opset that canonicalization knows how to raise."""

_IR_OF_CONSTANTS = 4
"""The IR version from which on an initializer need not be an input."""

_PROTOBUF_LIMIT = 2**31


def load_model(source: str | os.PathLike[str] | onnx.ModelProto | ir.Model) -> ir.Model:
    """Load an ONNX model and check that it is whole.

    External data stays memory-mapped: nothing is read until a pass asks for a weight's values
    (NaN and infinity in them are therefore found there, not here). An `ir.Model` is returned as
    it is, after the checks that need no file.

    Before IR version 4 every initializer had to be an input too, whether or not anyone meant to
    feed it: such weights become constants, and the model one of IR version 4 (an `ir.Model` is
    cloned for that). From IR version 4 on, an initializer that is an input can be overridden by
    whoever runs the model, and stays one.

    Args:
        source: the path of a file, a proto without external data, or a model.

    Raises:
        ModelError: the file is missing, empty, truncated or no ONNX; its external data is missing,
            too short or outside the model's folder; a tensor's size contradicts its shape; a
            node reads a value that nothing defines; nodes form a cycle; another invariant of
            :mod:`~bitfold.passes.core.invariants` does not hold.
        UnsupportedError: an opset that is too old or newer than the installed onnx package.
    """
    if isinstance(source, ir.Model):
        _check_graphs(source, source.graph.name or "model")
        return _without_weight_inputs(source.clone()) if _has_weight_inputs(source) else source
    if isinstance(source, onnx.ModelProto):
        return _from_proto(source, source.graph.name or "model", None)
    path = Path(source)
    return _from_proto(_parse(path), str(path), path.absolute().parent)


def _parse(path: Path) -> onnx.ModelProto:
    if path.is_dir():
        raise ModelError(f"{path}: expected an ONNX file, found a folder")
    if not path.exists():
        raise ModelError(f"{path}: no such file")
    size = path.stat().st_size
    if size == 0:
        raise ModelError(f"{path}: the file is empty")
    if size >= _PROTOBUF_LIMIT:
        raise ModelError(
            f"{path}: {size} bytes are more than an ONNX file can hold ({_PROTOBUF_LIMIT - 1})",
            hint="export the model with external data",
        )
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise ModelError(
            f"{path}: not an ONNX model, or a truncated one", hint="copy or fetch it again"
        ) from error
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from error
    return proto


def _from_proto(proto: onnx.ModelProto, where: str, folder: Path | None) -> ir.Model:
    # Protobuf accepts many byte strings that are no model: these three fields tell.
    for field, found in (
        ("an IR version", proto.ir_version > 0),
        ("a graph", proto.HasField("graph")),
        ("an opset import", len(proto.opset_import) > 0),
    ):
        if not found:
            raise ModelError(
                f"{where}: not an ONNX model, or a truncated one: it has not got {field}"
            )
    check_tensors(proto, where, folder)
    try:
        model = ir.from_proto(proto)
    except Exception as error:  # whatever trips over a broken message, where it is used first
        raise ModelError(f"{where}: broken ONNX model ({_root_cause(error)})") from error
    free_negative_dims(model)
    _describe_weights(model)
    if folder is not None:
        for graph in (model.graph, *(f.graph for f in model.functions.values())):
            ir.external_data.set_base_dir(graph, folder)
    _check_graphs(model, where)
    return _without_weight_inputs(model) if _has_weight_inputs(model) else model


def _root_cause(error: BaseException) -> str:
    """What happened in the first place: onnx_ir wraps it once for each level of the model."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]}…"


def _describe_weights(model: ir.Model) -> None:
    """Give constants the shape and type that they have, whatever is said of them elsewhere."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is not None and not value.is_graph_input():
                value.shape = ir.Shape(tensor.shape.numpy())
                value.type = ir.TensorType(tensor.dtype)


def _has_weight_inputs(model: ir.Model) -> bool:
    """Whether weights are inputs only because the IR version asks for it."""
    old = (model.ir_version or 0) < _IR_OF_CONSTANTS
    return old and any(value.is_initializer() for value in model.graph.inputs)


def _without_weight_inputs(model: ir.Model) -> ir.Model:
    inputs = model.graph.inputs
    inputs[:] = [value for value in inputs if not value.is_initializer()]
    _describe_weights(model)
    model.ir_version = _IR_OF_CONSTANTS
    return model


def _check_graphs(model: ir.Model, where: str) -> None:
    opset = model.graph.opset_imports.get("", None)
    newest = onnx.defs.onnx_opset_version()
    if opset is not None and not OLDEST_OPSET <= opset <= newest:
        raise UnsupportedError(
            f"{where}: opset {opset} is not supported, expected {OLDEST_OPSET} to {newest}",
            hint="export the model again with another opset"
            if opset < OLDEST_OPSET
            else "update the onnx package",
        )
    if not model.graph.outputs:
        raise ModelError(f"{where}: the graph has no outputs")
    for graph in (model.graph, *(f.graph for f in model.functions.values())):
        _check_values(graph, where)
        try:
            graph.sort()
        except ValueError as error:
            raise ModelError(f"{where}: the nodes form a cycle") from error
    try:
        check_invariants(model, node_names=False)
    except ModelError as error:
        raise ModelError(f"{where}: {error}") from error


def _check_values(graph: ir.Graph, where: str) -> None:
    """Raise for a value that is read but that no node, input or initializer defines."""
    for node in ir.traversal.RecursiveGraphIterator(graph):
        for value in node.inputs:
            if value is not None and not _is_defined(value):
                raise ModelError(
                    f"{where}: {label_of(node)} reads {value.name}, which nothing defines"
                )
    for value in graph.outputs:
        if not _is_defined(value):
            raise ModelError(f"{where}: nothing defines the output {value.name}")


def _is_defined(value: ir.Value) -> bool:
    return value.producer() is not None or value.is_graph_input() or value.is_initializer()
