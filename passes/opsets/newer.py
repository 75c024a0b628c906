"""Take models of newer opsets where all they use exists alike in the opset of the passes."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from bitfold.passes.opsets.conversion import Conversion
from bitfold.runtime.errors import UnsupportedError


def check_newer(model: ir.Model, found: int, target: int) -> None:
    """Rewrite what is newer than opset ``target`` in place; most operators need nothing.

    An operator that only gained types, inputs or attributes is taken as it is where it uses none
    of these; an attribute that holds its default is dropped.  Swish becomes x * Sigmoid(alpha x).

    Raises:
        UnsupportedError: an operator that has no equivalent; names the node.
    """
    newest = onnx.defs.onnx_opset_version()
    for graph in list(model.graphs()):
        for node in list(graph):
            version = min(node.version or found, newest)
            if node.domain != "" or version <= target:
                continue
            if node.op_type == "Swish":
                conversion = Conversion(node, target)
                _swish(conversion)
                conversion.finish(graph)
            else:
                _check_node(node, version, target)
                node.version = target


def _check_node(node: ir.Node, version: int, target: int) -> None:
    try:
        new = onnx.defs.get_schema(node.op_type, version, "")
    except onnx.defs.SchemaError:
        return  # an unknown operator: the check of the model says so
    if new.since_version <= target:
        return
    try:
        old = onnx.defs.get_schema(node.op_type, target, "")
    except onnx.defs.SchemaError:
        raise _refusal(node, version, target, "does not exist there") from None
    for name in list(node.attributes):
        if name in old.attributes or name not in new.attributes:
            continue
        default = new.attributes[name].default_value
        attribute = node.attributes[name]
        if attribute.is_ref() or not default.name or ir.from_proto(default) != attribute:
            raise _refusal(node, version, target, f"has no attribute {name} there")
        node.attributes.pop(name)
    used = len(node.inputs)
    while used and node.inputs[used - 1] is None:
        used -= 1
    if used > old.max_input or len(node.outputs) > old.max_output:
        raise _refusal(node, version, target, "has fewer inputs or outputs there")


def _refusal(node: ir.Node, version: int, target: int, why: str) -> UnsupportedError:
    return UnsupportedError(
        f"node {node.name or '(unnamed)'} ({node.op_type}) of opset {version} cannot be brought "
        f"to opset {target}: it {why}",
        hint=f"export the model with opset {target} or older",
    )


def _swish(c: Conversion) -> None:
    x = c.input(0)
    alpha = c.floating("alpha", 1.0)
    scaled = x if alpha == 1.0 else c.op("Mul", [x, c.constant_like([alpha], x, scalar=True)])
    c.replace(c.op("Mul", [x, c.op("Sigmoid", [scaled])]))
