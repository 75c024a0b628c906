"""What must hold of a model after every pass; a violation names the node."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence

import onnx
import onnx_ir as ir

from bitfold.passes.core.targets import ORT_DOMAIN
from bitfold.passes.core.words import counted
from bitfold.runtime.errors import ModelError
from bitfold.runtime.ops import DOMAIN

_ORT_STANDARD = {
    *("Affine", "Crop", "DynamicSlice", "GivenTensorFill", "GRUUnit", "ImageScaler"),
    *("ParametricSoftplus", "Scale", "ScaledTanh", "SimplifiedLayerNormalization"),
}
"""Operators that ORT counts among the standard ones, and that its own tools write."""

_LOW_BIT_ATTRIBUTES = {
    **dict.fromkeys(("N", "K", "C", "bits", "groups", "group_size"), ir.AttributeType.INT),
    **dict.fromkeys(("act_group_size", "layout", "block_size"), ir.AttributeType.INT),
    **dict.fromkeys(("acts", "activation"), ir.AttributeType.STRING),
}
"""Types of the attributes that describe low-bit weights, in bitfold's and in ORT's operators."""

_SINGLE = onnx.defs.OpSchema.FormalParameterOption.Single

_KNOWN_DOMAINS = {"", "ai.onnx", "ai.onnx.ml", ORT_DOMAIN, DOMAIN}


def check_invariants(
    model: ir.Model, original: ir.Model | None = None, *, node_names: bool = True
) -> None:
    """Check ``model``, and that it takes and gives what ``original`` does.

    1. Nodes are in topological order, and every value they read exists where they read it.
    2. Value names are unique within a scope, node names within a graph; none is missing.  No
       node of a subgraph computes a value whose name an enclosing scope has for another.
    3. Every initializer has its data, and the name it is stored under.
    4. Every operator is of a known domain or has a function, and its domain an opset import; a
       standard one exists in the opset and has the inputs, outputs and attributes it needs.
    5. Graph inputs and outputs keep their order, names, types and ranks.

    ONNX lets nodes go without a name: ``node_names=False`` leaves theirs unchecked.

    Raises:
        ModelError: the first violation: the node, what was expected and what was found.
    """
    for violation in _violations(model, original):
        raise ModelError(violation)
    if node_names:
        for violation in _check_node_names(model):
            raise ModelError(violation)


def label_of(node: ir.Node) -> str:
    """A node as messages name it: by its name and operator, or else by what it computes."""
    return f"{_name_of(node)} ({node.op_type})" if node.name else _name_of(node)


def _name_of(node: ir.Node) -> str:
    if node.name:
        return f"node {node.name!r}"
    computed = next((value.name for value in node.outputs if value.name), None)
    return f"an unnamed {node.op_type}" + (f" that computes {computed!r}" if computed else "")


def _violations(model: ir.Model, original: ir.Model | None) -> Iterator[str]:
    yield from _check_graph(model.graph, model, dict(model.opset_imports), set(), "graph")
    for function in model.functions.values():
        where = f"function {function.domain}::{function.name}"
        imports = {**model.opset_imports, **function.opset_imports}
        yield from _check_graph(function.graph, model, imports, set(), where)
    if original is not None:
        yield from _check_interface("input", original.graph.inputs, model.graph.inputs)
        yield from _check_interface("output", original.graph.outputs, model.graph.outputs)


def _check_node_names(model: ir.Model) -> Iterator[str]:
    for graph in [model.graph, *(function.graph for function in model.functions.values())]:
        seen: set[str] = set()
        for node in graph:
            if not node.name:
                yield f"{label_of(node)}: expected a name, found none"
            elif node.name in seen:
                yield f"{label_of(node)}: expected a unique name, found it twice"
            seen.add(node.name or "")


def _check_graph(
    graph: ir.Graph,
    model: ir.Model,
    imports: dict[str, int],
    outer: set[ir.Value],
    where: str,
    outer_names: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """Check one scope.

    Args:
        outer: the values that enclosing scopes have defined so far.
        outer_names: what these are, by name.
    """
    names: dict[str, str] = {}
    visible = ChainMap(names, dict(outer_names or {}))
    defined = set(outer)
    for key, value in graph.initializers.items():
        if value.name != key:
            yield f"{where}: initializer stored as {key!r} is named {value.name!r}"
        if value.const_value is None and not value.is_graph_input():
            yield f"{where}: expected data for initializer {key!r}, found none"
        names[key] = "an initializer"
        defined.add(value)
    for value in graph.inputs:
        if value.name in names and value.name not in graph.initializers:
            yield f"{where}: expected unique value names, found {value.name!r} twice"
        names[value.name or ""] = "an input"
        defined.add(value)

    for node in graph:
        label = f"{where}: {label_of(node)}"
        yield from _check_operator(node, model, imports, label)
        for index, read in enumerate(node.inputs):
            if read is not None and read not in defined:
                yield f"{label}: input {index}, {read.name!r}, {_why_undefined(read, graph)}"
        for attribute in node.attributes.values():
            for inner in _subgraphs(attribute):
                inside = f"{label}, subgraph"
                yield from _check_graph(inner, model, imports, defined, inside, visible)
        for value in node.outputs:
            if not value.name:
                if value.uses() or value.is_graph_output():
                    yield f"{label}: expected a name for an output that is used, found none"
            elif value.name in visible:
                yield (
                    f"{label}: expected unique value names, found {value.name!r}, "
                    f"which is also {visible[value.name]}"
                )
            names[value.name or ""] = f"an output of {_name_of(node)}"
            defined.add(value)
    for value in graph.outputs:
        if value not in defined:
            yield f"{where}: output {value.name!r} {_why_undefined(value, graph)}"


def _why_undefined(value: ir.Value, graph: ir.Graph) -> str:
    producer = value.producer()
    if producer is None:
        return "is no input, no initializer and no node's output"
    if producer.graph is graph:
        return f"is computed later, by {_name_of(producer)}: expected topological order"
    return f"comes from {_name_of(producer)}, which is not in the graph"


def _check_operator(
    node: ir.Node, model: ir.Model, imports: dict[str, int], label: str
) -> Iterator[str]:
    is_function = node.op_identifier() in model.functions
    if not is_function and node.domain not in _KNOWN_DOMAINS:
        yield f"{label}: expected a function or a known domain, found domain {node.domain!r}"
    if node.domain == DOMAIN and not is_function:
        yield f"{label}: expected a function body for {node.domain}::{node.op_type}, found none"
    if node.domain == "" and not is_function and node.op_type not in _ORT_STANDARD:
        yield from _check_standard(node, imports.get("", imports.get("ai.onnx", 0)), label)
    for name, attribute in node.attributes.items():
        if attribute.type == ir.AttributeType.UNDEFINED:
            yield f"{label}: expected a type for attribute {name}, found none"
    if node.domain in (DOMAIN, ORT_DOMAIN):
        for name, attribute in node.attributes.items():
            kind = _LOW_BIT_ATTRIBUTES.get(name, attribute.type)
            if attribute.type != kind:
                yield (
                    f"{label}: expected attribute {name} to be of type {kind.name}, "
                    f"found {attribute.type.name}"
                )
    if node.domain not in imports and not (node.domain == "ai.onnx" and "" in imports):
        yield f"{label}: expected an opset import of {node.domain!r}, found {sorted(imports)}"


def _check_standard(node: ir.Node, opset: int, label: str) -> Iterator[str]:
    """An operator of the default domain must exist in its opset, with the inputs it needs."""
    newest = onnx.defs.onnx_opset_version()
    try:
        schema = onnx.defs.get_schema(node.op_type, min(node.version or opset, newest), "")
    except onnx.defs.SchemaError:
        yield f"{label}: expected an operator of opset {opset}, found none of this name"
        return
    used = len(node.inputs)
    while used and node.inputs[used - 1] is None:
        used -= 1
    if not schema.min_input <= used <= schema.max_input:
        expected = _range(schema.min_input, schema.max_input, "input")
        yield f"{label}: expected {expected}, found {used}"
    if not schema.min_output <= len(node.outputs) <= schema.max_output:
        expected = _range(schema.min_output, schema.max_output, "output")
        yield f"{label}: expected {expected}, found {len(node.outputs)}"
    for index, parameter in enumerate(schema.inputs[:used]):
        if parameter.option == _SINGLE and node.inputs[index] is None:
            yield f"{label}: expected an input {parameter.name} (number {index}), found none"
    for name, attribute in schema.attributes.items():
        if attribute.required and name not in node.attributes:
            yield f"{label}: expected the attribute {name}, found {sorted(node.attributes)}"
    for name, found in node.attributes.items():
        if name not in schema.attributes:
            yield f"{label}: expected attributes among {sorted(schema.attributes)}, found {name}"
            continue
        # The stubs call onnx's own enumeration something else.
        kind = ir.AttributeType(int(schema.attributes[name].type.value))  # type: ignore[attr-defined]
        if found.type != kind:
            yield (
                f"{label}: expected attribute {name} to be of type {kind.name}, "
                f"found {found.type.name}"
            )


def _range(low: int, high: int, noun: str) -> str:
    if low == high:
        return counted(low, noun)
    return f"{low} or more {noun}s" if high >= 1 << 30 else f"{low} to {high} {noun}s"


def _subgraphs(attribute: ir.Attr) -> list[ir.Graph]:
    if attribute.is_ref():
        return []
    if attribute.type == ir.AttributeType.GRAPH:
        return [attribute.as_graph()]
    if attribute.type == ir.AttributeType.GRAPHS:
        return list(attribute.as_graphs())
    return []


def _check_interface(
    kind: str, expected: Sequence[ir.Value], found: Sequence[ir.Value]
) -> Iterator[str]:
    old, new = [v.name for v in expected], [v.name for v in found]
    if old != new:
        yield f"expected the graph's {kind}s to stay {old}, found {new}"
        return
    for before, after in zip(expected, found, strict=True):
        if before.dtype is not None and after.dtype != before.dtype:
            yield f"{kind} {before.name!r}: expected type {before.dtype}, found {after.dtype}"
        if before.shape is not None and (
            after.shape is None or after.shape.rank() != before.shape.rank()
        ):
            yield f"{kind} {before.name!r}: expected shape {before.shape}, found {after.shape}"
