"""The shape of an attention with a cache after canonicalizing, for ``fuse-attention``."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter.pattern import ANY_VALUE, Pattern

from bitfold.runtime.ops.fused_attention import LARGEST_HEAD


def _pattern(op: Any, *values: Any, rotary: bool) -> Any:
    q, k, v, mask, past_key, past_value, cos, sin = values
    heads = [
        op.Transpose(
            op.Reshape(each, ANY_VALUE, _allow_other_attributes=True),
            perm=[0, 2, 1, 3],
            _outputs=[f"{name}_heads"],
        )
        for name, each in (("q", q), ("k", k), ("v", v))
    ]
    if rotary:
        for index, name in ((0, "q_rotary"), (1, "k_rotary")):
            heads[index] = op.RotaryEmbedding(
                heads[index], cos, sin, _allow_other_attributes=True, _outputs=[name]
            )
    mixed, _, _ = op.Attention(
        *heads,
        mask,
        past_key,
        past_value,
        _allow_other_attributes=True,
        _outputs=["mixed", "present_key", "present_value"],
    )
    merged = op.Transpose(mixed, perm=[0, 2, 1, 3])
    return op.Reshape(merged, ANY_VALUE, _allow_other_attributes=True, _outputs=["out"])


def _with_rotary(
    op: Any, q: Any, k: Any, v: Any, mask: Any, past_key: Any, past_value: Any, cos: Any, sin: Any
) -> Any:
    return _pattern(op, q, k, v, mask, past_key, past_value, cos, sin, rotary=True)


def _without_rotary(
    op: Any, q: Any, k: Any, v: Any, mask: Any, past_key: Any, past_value: Any
) -> Any:
    return _pattern(op, q, k, v, mask, past_key, past_value, None, None, rotary=False)


PATTERNS = (Pattern(_with_rotary), Pattern(_without_rotary))

Found = dict[str, ir.Value]

ROTARY_MULTIPLE = 16
"""With do_rotary, GroupQueryAttention takes head sizes that are multiples of this."""


def find_attention(model: ir.Model, attention: ir.Node) -> Found | None:
    """Match a pattern around ``attention`` from the Reshape that ends it: its values by name.

    The names: q, k, v (projections [batch, sequence, heads * head]), q_heads, k_heads, v_heads
    ([batch, heads, sequence, head]), q_rotary, k_rotary, cos, sin (where it rotates), mask,
    past_key, past_value, mixed, present_key, present_value, out.
    """
    root = end_of_attention(attention)
    if root is None:
        return None
    for pattern in PATTERNS:
        match = pattern.match(model, model.graph, root, check_nodes_are_removable=False)
        if match:
            return dict(match.bindings)
    return None


def end_of_attention(attention: ir.Node) -> ir.Node | None:
    """The Reshape that alone reads the Transpose that alone reads the attention."""
    node: ir.Node | None = attention
    for op_type in ("Transpose", "Reshape"):
        users = [user for user, _ in node.outputs[0].uses()] if node is not None else []
        node = users[0] if len(users) == 1 and users[0].op_type == op_type else None
    return node


def refusal(attention: ir.Node, found: Found, native: bool) -> str:
    """Why the attention cannot be one operator with its cache, or an empty string.

    Args:
        attention: the node.
        found: what the pattern matched.
        native: that operator is bitfold's FusedAttention rather than ORT's GroupQueryAttention.
    """
    sizes = set()
    for name in ("q", "k", "v"):
        heads, shape = heads_of(found[f"{name}_heads"]), found[name].shape
        if heads is None:
            return f"the heads of {found[name].name} are not known"
        if shape is None or len(shape) != 3 or shape[2] != heads[0] * heads[1]:
            return f"{found[name].name} is not known as [batch, sequence, heads * head]"
        sizes.add(heads[1])
    if len(sizes) != 1:
        return "the heads of query, key and value differ in size"
    size = sizes.pop()
    if native and size > LARGEST_HEAD:
        return f"heads of {size}: expected at most {LARGEST_HEAD}"
    if not native and "cos" in found and size % ROTARY_MULTIPLE:
        return f"the op rotates heads of a multiple of {ROTARY_MULTIPLE} only"
    for name in ("q_rotary", "k_rotary"):
        node = found[name].producer() if name in found else None
        if node is not None and node.attributes.get_int("rotary_embedding_dim", 0) != 0:
            return "only a part of each head is rotated"
    if len({interleaved(found, name) for name in ("q_rotary", "k_rotary")}) != 1:
        return "query and key are rotated in different ways"
    if attention.attributes.get_int("is_causal", 0):
        return "it is causal beside its mask"
    if any(output.uses() or output.is_graph_output() for output in attention.outputs[3:]):
        return "its scores are used"
    return ""


def heads_of(value: ir.Value) -> tuple[int, int] | None:
    """(heads, head size) of a value [batch, heads, sequence, head], if they are known."""
    if value.shape is None or len(value.shape) != 4:
        return None
    heads, head = value.shape[1], value.shape[3]
    return (heads, head) if isinstance(heads, int) and isinstance(head, int) else None


def interleaved(found: Found, name: str) -> int:
    """Whether q_rotary or k_rotary (``name``) rotates neighbours rather than halves."""
    node = found[name].producer() if name in found else None
    return int(node.attributes.get_int("interleaved", 0)) if node is not None else 0


def projections(found: Found) -> list[ir.Value | None]:
    """query, key, value; or the packed projection alone, where one Split makes all three."""
    q, k, v = (found[name] for name in ("q", "k", "v"))
    split = q.producer()
    if split is None or split.op_type != "Split" or list(split.outputs) != [q, k, v]:
        return [q, k, v]
    axis = split.attributes.get_int("axis", 0)
    return [split.inputs[0], None, None] if axis in (-1, 2) else [q, k, v]
