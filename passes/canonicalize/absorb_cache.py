"""Give an Attention node the key/value cache that is concatenated in front of it."""

from __future__ import annotations

import onnx_ir as ir
from onnxscript.rewriter.pattern import Pattern

from bitfold.passes.core.report import PassEntry


def _cached(op, q, past_key, key, past_value, value):  # type: ignore[no-untyped-def]
    keys = op.Concat(past_key, key, _outputs=["present_key"], _allow_other_attributes=True)
    values = op.Concat(past_value, value, _outputs=["present_value"], _allow_other_attributes=True)
    return op.Attention(
        q,
        keys,
        values,
        _allow_other_inputs=True,
        _allow_other_attributes=True,
        _outputs=["out"],
    )


PATTERN = Pattern(_cached, name="Attention with a cache")


def absorb_cache(model: ir.Model, entry: PassEntry) -> bool:
    """Rewrite ``Attention(q, Concat(past_k, k), Concat(past_v, v))`` to one node with a cache.

    The node takes past_k and past_v as inputs 4 and 5, and its outputs 1 and 2 take over the names
    of the two Concats, which stay graph outputs.  An Attention whose Concat others compute with is
    left alone, with the reason.  (Three outputs in one pattern would make the matcher try every
    pair of Concats in the graph, hence one pattern and the surgery here.)
    """
    changed = False
    for node in list(model.graph):
        if node.op_type != "Attention" or node.domain != "":
            continue
        match = PATTERN.match(model, model.graph, node, check_nodes_are_removable=False)
        if not match or len(node.outputs) > 1:
            continue
        found = match.bindings
        presents: list[ir.Value] = [found["present_key"], found["present_value"]]
        reason = _refusal(node, presents) or _cross_refusal(found["q"], found["key"])
        if reason:
            entry.skipped(str(node.outputs[0].name), f"cache not absorbed: {reason}")
            continue
        _absorb(model.graph, node, found, presents)
        entry.changed(str(presents[0].name), "cache absorbed by its Attention")
        changed = True
    return changed


def _refusal(attention: ir.Node, presents: list[ir.Value]) -> str:
    if len(attention.inputs) > 4:
        return "it has a cache already"
    for value in presents:
        concat = value.producer()
        if concat is None or concat.attributes.get_int("axis", 0) not in (2, -2):
            return f"{value.name} is not concatenated along the sequence"
        if any(user is not attention for user, _ in value.uses()):
            return f"{value.name} has other uses"
    return ""


def _cross_refusal(query: ir.Value, key: ir.Value) -> str:
    """A node with a cache must get a new key each time, as many as queries.

    Attention to other tokens (an encoder's) need not: their keys may all be in the cache.
    """
    origins = _projected(query), _projected(key)
    if None in origins or origins[0] is origins[1]:
        return ""
    return "its keys are not those of the tokens that ask"


def _projected(value: ir.Value) -> ir.Value | None:
    """What a query or key is projected from: the input of the matrix product it comes from."""
    while (node := value.producer()) is not None:
        first = node.inputs[0]
        if first is None:
            return None
        if node.op_type in ("MatMul", "Gemm"):
            return first
        # A bias, a scale or an angle may stand first: what was computed is the other operand.
        values = [each for each in node.inputs if each is not None and each.producer() is not None]
        value = values[0] if values else first
    return None


def _absorb(
    graph: ir.Graph, node: ir.Node, found: dict[str, ir.Value], presents: list[ir.Value]
) -> None:
    mask = node.inputs[3] if len(node.inputs) > 3 else None
    new = ir.node(
        "Attention",
        [
            found["q"],
            found["key"],
            found["value"],
            mask,
            found["past_key"],
            found["past_value"],
        ],
        attributes={name: attribute.value for name, attribute in node.attributes.items()},
        num_outputs=3,
        name=node.name,
    )
    concats = [value.producer() for value in presents]
    ir.convenience.replace_nodes_and_values(
        graph,
        node,
        [node, *[concat for concat in concats if concat is not None]],
        [new],
        [node.outputs[0], *presents],
        list(new.outputs),
    )
