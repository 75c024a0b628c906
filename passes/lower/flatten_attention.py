"""Let an Attention without a cache read projections as they are, heads side by side."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter.pattern import ANY_VALUE, Pattern

from bitfold.passes.lower.attention_pattern import Found, end_of_attention, heads_of


def _uncached(op: Any, q: Any, k: Any, v: Any) -> Any:
    heads = [
        op.Transpose(
            op.Reshape(each, ANY_VALUE, _allow_other_attributes=True),
            perm=[0, 2, 1, 3],
            _outputs=[f"{name}_heads"],
        )
        for name, each in (("q", q), ("k", k), ("v", v))
    ]
    mixed = op.Attention(
        *heads, _allow_other_inputs=True, _allow_other_attributes=True, _outputs=["mixed"]
    )
    merged = op.Transpose(mixed, perm=[0, 2, 1, 3])
    return op.Reshape(merged, ANY_VALUE, _allow_other_attributes=True, _outputs=["out"])


PATTERN = Pattern(_uncached)


def flatten_attention(model: ir.Model, attention: ir.Node) -> ir.Node | str:
    """Rewrite ``attention`` to its form for [batch, sequence, heads * head] tensors.

    The reshapes and transposes around it go.  This form of the standard op is the fastest of ORT
    1.31's for a CPU: 12 heads of 32, 16 x 128 tokens with a mask take 12.3 ms, the 4-D form 16.7
    to 21, com.microsoft MultiHeadAttention 19.8 (2 threads).

    Returns:
        The new node, or why there is none.
    """
    root = end_of_attention(attention)
    match = root is not None and PATTERN.match(
        model, model.graph, root, check_nodes_are_removable=False
    )
    if not match:
        return "it is not between the reshapes of heads"
    found: Found = dict(match.bindings)
    if found["out"].shape is None or len(found["out"].shape) != 3:
        return "its result is not put together as [batch, sequence, heads * head]"
    counts = []
    for name in ("q", "k", "v"):
        heads, shape = heads_of(found[f"{name}_heads"]), found[name].shape
        if heads is None:
            return f"the heads of {found[name].name} are not known"
        if shape is None or len(shape) != 3 or shape[2] != heads[0] * heads[1]:
            return f"{found[name].name} is not known as [batch, sequence, heads * head]"
        counts.append(heads[0])
    attributes = {name: attribute.value for name, attribute in attention.attributes.items()}
    new = ir.node(
        "Attention",
        [found["q"], found["k"], found["v"], *attention.inputs[3:]],
        {**attributes, "q_num_heads": counts[0], "kv_num_heads": counts[1]},
        name=attention.name,
    )
    assert root is not None  # there is a match
    ir.convenience.replace_nodes_and_values(
        model.graph, root, [root], [new], [found["out"]], list(new.outputs)
    )
    _measure_before_split(model.graph, found)
    return new


def _measure_before_split(graph: ir.Graph, found: Found) -> None:
    """Where a mask is broadcast to q's length, take the length from the projection."""
    for node, _ in list(found["q_heads"].uses()):
        attributes = node.attributes
        if node.op_type != "Shape" or attributes.get_int("start", 0) != 2:
            continue
        if attributes.get_int("end", 0) != 3:
            continue
        new = ir.node("Shape", [found["q"]], {"start": 1, "end": 2}, name=node.name)
        ir.convenience.replace_nodes_and_values(
            graph, node, [node], [new], [node.outputs[0]], [new.outputs[0]]
        )
