"""Run an ``onnx_ir.Model`` in ONNX Runtime as it is in memory: no weight is copied or written.

A weight that lies in a file stays there: ORT maps the same bytes.  A weight in memory is lent
to ORT where that is possible (``optimize=False``), and copied otherwise.  The graph alone is
serialized, so a session over hundreds of megabytes of weights opens in milliseconds.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from bitfold.runtime.errors import BitfoldError, ModelError, UnsupportedError
from bitfold.runtime.ort_errors import explained
from bitfold.runtime.weight_lending import detach_weights

NUMPY_LACKS = {
    ir.DataType.BFLOAT16,
    ir.DataType.FLOAT8E4M3FN,
    ir.DataType.FLOAT8E4M3FNUZ,
    ir.DataType.FLOAT8E5M2,
    ir.DataType.FLOAT8E5M2FNUZ,
}
"""Types that ORT computes with but cannot hand over as NumPy arrays."""


class Execution:
    """A model that is loaded in ORT and ready to run; made by :func:`open_session`."""

    def __init__(
        self, session: ort.InferenceSession, outputs: Sequence[str], renamed: Mapping[str, str]
    ) -> None:
        self._session = session
        self._outputs = list(outputs)
        self._renamed = dict(renamed)
        self._inputs = [value.name for value in session.get_inputs()]
        self._arrays: list[Any] = []

    @property
    def input_names(self) -> list[str]:
        """The names of the arrays that :meth:`run` expects."""
        return list(self._inputs)

    def run(self, feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Run once; bfloat16 and float8 results come back as float32.

        Raises:
            ModelError: an input is missing, or a node failed (the message names it).
            UnsupportedError: the model asks for something that ORT does not have.
        """
        missing = [name for name in self._inputs if name not in feeds]
        if missing:
            raise ModelError(
                f"the model cannot run: expected inputs {self._inputs}, missing {missing}"
            )
        arrays = {name: _feed(feeds[name]) for name in self._inputs}
        wanted = [self._renamed.get(name, name) for name in self._outputs]
        try:
            results = self._session.run(wanted, arrays)
        except Exception as error:
            raise explained(error, "the model cannot run") from error
        # A result lies in the session's arena and would keep all of it alive: take copies.
        copies = [np.array(r) if isinstance(r, np.ndarray) else r for r in results]
        return dict(zip(self._outputs, copies, strict=True))


def open_session(
    model: ir.Model,
    *,
    outputs: Sequence[str] | None = None,
    threads: int = 0,
    op_library: bool = True,
    optimize: bool = True,
    copy_weights: bool | None = None,
    spin: bool = False,
) -> Execution:
    """Load ``model`` in ORT on the CPU; the model itself is not touched.

    Args:
        outputs: names of the values to compute, which may be inner values of the graph;
            the graph's outputs by default.  Nodes that they do not need are left out.
        threads: threads inside an operator; 0 lets ORT choose.
        op_library: use bitfold's operators where the model has any and their library is
            built; without it ORT runs the function bodies that the nodes carry.
        optimize: let ORT rewrite the graph: faster to run, but slower to open, and weights that
            it folds are copied.
        copy_weights: let ORT fold constants and bring weights into the order that its kernels
            like; as ``optimize`` by default.  With neither, no weight is copied at all, but
            for those of MatMulNBits.
        spin: let threads wait busily for the next operator while a run goes on, as
            :class:`~bitfold.runtime.session.Session` does.

    Raises:
        ModelError: ORT refuses the model, or an output does not exist.
        UnsupportedError: an operator, type or version that this ORT does not have.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spin else "0")
    # Between runs nobody gains from a busy wait, and whoever else needs the core loses.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
    copy_weights = optimize if copy_weights is None else copy_weights
    if not copy_weights and not _only_packed_weights_do(model):
        options.add_session_config_entry("session.disable_prepacking", "1")
    if not optimize:
        # Planning reuse ahead takes a second on 2,500 nodes; buffers are freed as it goes anyway.
        options.enable_mem_reuse = False
        options.enable_mem_pattern = False
    if op_library:
        _register_op_library(model, options)

    names = list(outputs) if outputs is not None else [_name(v) for v in model.graph.outputs]
    copy = model.clone()
    _select_outputs(copy.graph, names)
    renamed = _cast_for_numpy(copy.graph)
    with tempfile.TemporaryDirectory(prefix="bitfold-") as folder:
        arrays = detach_weights(copy, options, Path(folder), optimize)
        proto = ir.to_proto(copy)
        try:
            session = ort.InferenceSession(
                proto.SerializeToString(),
                options,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=None if copy_weights else ["ConstantFolding"],
            )
        except ValueError as error:  # protobuf's own limit
            raise UnsupportedError(
                f"the graph without its large weights is over 2 GB: {error}"
            ) from error
        except Exception as error:
            raise explained(error, "ONNX Runtime cannot load the model") from error
    execution = Execution(session, names, renamed)
    execution._arrays = [options, *arrays]  # lent to the session: they must live as long
    return execution


def _name(value: ir.Value) -> str:
    return value.name or ""


def _feed(array: Any) -> Any:
    """An array as ORT takes it: types that NumPy lacks travel as bits with their ONNX type."""
    array = np.asarray(array)
    if array.dtype.kind == "V" or array.dtype.type.__module__.startswith("ml_dtypes"):
        dtype = ir.DataType.from_numpy(array.dtype)
        array = np.ascontiguousarray(array)
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, int(dtype))
    return array


def _only_packed_weights_do(model: ir.Model) -> bool:
    """Whether an operator computes something else from weights that are not in its own order.

    MatMulNBits of ORT 1.31 leaves its input float then, whatever its accuracy_level says.
    """
    return any(node.op_type == "MatMulNBits" for node in model.graph.all_nodes())


def _register_op_library(model: ir.Model, options: ort.SessionOptions) -> None:
    if not any(node.domain == "bitfold" for node in model.graph.all_nodes()):
        return
    try:
        from bitfold.runtime.op_library import op_library_path
    except ImportError:
        return
    try:
        path = op_library_path()
    except BitfoldError:
        return  # not built here: the function bodies run instead
    if path is not None and Path(path).exists():
        options.register_custom_ops_library(str(path))


def _select_outputs(graph: ir.Graph, names: Sequence[str]) -> None:
    """Make ``names`` the outputs of ``graph`` and drop the nodes and weights they do not need."""
    values = {_name(value): value for value in graph.inputs}
    for node in graph:
        values.update((_name(value), value) for value in node.outputs)
    values.update((name, value) for name, value in graph.initializers.items())
    unknown = [name for name in names if name not in values]
    if unknown:
        raise ModelError(f"expected values of the graph as outputs, found {unknown}")
    current = [_name(value) for value in graph.outputs]
    if current == list(names):
        return
    graph.outputs.clear()
    graph.outputs.extend(values[name] for name in names)
    needed = set(names)
    dead = []
    for node in reversed(graph):
        if needed.isdisjoint(_name(value) for value in node.outputs):
            dead.append(node)
        else:
            needed.update(used_names(node))
    for node in dead:
        _release(node)
    graph.remove(dead, safe=True)
    for name in [name for name in graph.initializers if name not in needed]:
        if not graph.initializers[name].is_graph_input():
            del graph.initializers[name]


def _release(node: ir.Node) -> None:
    """Make the subgraphs of ``node`` let go of the outer values that they read."""
    for graph in _subgraphs(node):
        graph.outputs.clear()
        for inner in graph:
            _release(inner)
        graph.remove(list(graph), safe=True)


def used_names(node: ir.Node) -> set[str]:
    """Names of the values that ``node`` reads, those read inside its subgraphs included."""
    used = {_name(value) for value in node.inputs if value is not None}
    for graph in _subgraphs(node):
        used.update(_name(value) for value in graph.outputs)
        for inner in graph:
            used |= used_names(inner)
    return used


def _subgraphs(node: ir.Node) -> list[ir.Graph]:
    graphs: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.GRAPH:
            graphs.append(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            graphs += attribute.as_graphs()
    return graphs


def _cast_for_numpy(graph: ir.Graph) -> dict[str, str]:
    """Add a Cast to float32 after each output that NumPy cannot hold; return the new names."""
    renamed = {}
    for index, value in enumerate(list(graph.outputs)):
        if value.dtype not in NUMPY_LACKS:
            continue
        cast = ir.node("Cast", [value], {"to": int(ir.DataType.FLOAT)})
        cast.outputs[0].name = f"{value.name}/float32"
        cast.outputs[0].dtype = ir.DataType.FLOAT
        graph.append(cast)
        graph.outputs[index] = cast.outputs[0]
        renamed[_name(value)] = _name(cast.outputs[0])
    return renamed
