"""Attention without a cache of its own as bitfold's FusedAttention."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter.pattern import ANY_VALUE, Pattern

from bitfold.passes.analysis.row_origin import same_shape
from bitfold.passes.lower.attention_pattern import end_of_attention, heads_of
from bitfold.runtime.ops.body import call
from bitfold.runtime.ops.fused_attention import INPUTS, LARGEST_HEAD, FusedAttention


def to_fused_attention(model: ir.Model, attention: ir.Node) -> str:
    """Make an Attention over [batch, sequence, heads * head] tensors a FusedAttention.

    Its mask is read as it is before it is broadcast.

    Returns:
        Why not, or an empty string.
    """
    q, k, v, mask = [*attention.inputs, None][:4]
    attributes = attention.attributes
    heads, kv_heads = (attributes.get_int(f"{each}_num_heads", 0) for each in ("q", "kv"))
    if not heads or not kv_heads or q is None or k is None or v is None:
        return "its heads are not known"
    widths = [each.shape[-1] if each.shape is not None else None for each in (q, k, v)]
    if not isinstance(widths[0], int) or widths[1] != widths[2]:
        return "key and value are not known to be of one size"
    head = widths[0] // heads
    reason = refusal(attention, head, mask)
    if reason:
        return reason
    causal = bool(attributes.get_int("is_causal", 0))
    if causal and not same_shape(q, k):
        return "it is causal, and queries and keys may differ in number"
    if mask is not None:
        mask = _before_broadcast(mask)
    operator = FusedAttention(
        heads,
        kv_heads,
        head,
        attributes.get_float("scale", 0.0) or head**-0.5,
        causal=causal,
        key=True,
        mask=mask is not None,
    )
    given = {"query": q, "key": k, "value": v, "mask": mask}
    _replace(model, attention, attention, operator, given)
    return ""


def read_split_heads(model: ir.Model, attention: ir.Node) -> str:
    """Make an Attention over keys and values [batch, heads, sequence, head] a FusedAttention.

    That of a decoder to what it keeps of its encoder, say.  The reshapes and transposes around the
    query and the result go.

    Returns:
        Why not, or an empty string.
    """
    root = end_of_attention(attention)
    match = root is not None and PATTERN.match(
        model, model.graph, root, check_nodes_are_removable=False
    )
    if root is None or not match:
        return "it is not between the reshapes of heads"
    found: dict[str, ir.Value] = dict(match.bindings)
    _, k, v, mask = [*attention.inputs, None][:4]
    assert k is not None  # the pattern has them
    assert v is not None
    sizes = [heads_of(each) for each in (found["q_heads"], k, v)]
    if sizes[0] is None or sizes[1] is None or sizes[1] != sizes[2] or sizes[0][1] != sizes[1][1]:
        return "heads are not known to be of one size"
    (heads, head), kv_heads = sizes[0], sizes[1][0]
    for each in (found["q"], found["out"]):
        if each.shape is None or len(each.shape) != 3 or each.shape[2] != heads * head:
            return f"{each.name} is not known as [batch, sequence, heads * head]"
    reason = refusal(attention, head, mask)
    if reason:
        return reason
    if attention.attributes.get_int("is_causal", 0):
        return "it is causal"
    operator = FusedAttention(
        heads,
        kv_heads,
        head,
        attention.attributes.get_float("scale", 0.0) or head**-0.5,
        past=True,
        mask=mask is not None,
    )
    given = {"query": found["q"], "past_key": k, "past_value": v, "mask": mask}
    _replace(model, attention, root, operator, given)
    return ""


def refusal(attention: ir.Node, head: int, mask: ir.Value | None) -> str:
    """Why the attention cannot be a FusedAttention without caches, or an empty string."""
    attributes = attention.attributes
    if not 0 < head <= LARGEST_HEAD:
        return f"heads of {head}: expected at most {LARGEST_HEAD}"
    if any(attention.inputs[4:]) or any(each.uses() for each in attention.outputs[1:]):
        return "it has a cache, or its scores are used"
    if attributes.get_float("softcap", 0.0):
        return "its scores are bounded after the mask"
    if mask is not None and (
        mask.dtype != ir.DataType.FLOAT or mask.shape is None or not 1 <= len(mask.shape) <= 4
    ):
        return f"the mask {mask.name} is not known as float32 of 1 to 4 axes"
    return ""


def _split_heads(op: Any, q: Any, k: Any, v: Any) -> Any:
    heads = op.Transpose(
        op.Reshape(q, ANY_VALUE, _allow_other_attributes=True),
        perm=[0, 2, 1, 3],
        _outputs=["q_heads"],
    )
    mixed = op.Attention(
        heads, k, v, _allow_other_inputs=True, _allow_other_attributes=True, _outputs=["mixed"]
    )
    merged = op.Transpose(mixed, perm=[0, 2, 1, 3])
    return op.Reshape(merged, ANY_VALUE, _allow_other_attributes=True, _outputs=["out"])


PATTERN = Pattern(_split_heads)


def _before_broadcast(mask: ir.Value) -> ir.Value:
    """What an Expand makes the mask of: the op broadcasts by itself."""
    node = mask.producer()
    if node is None or node.op_type != "Expand":
        return mask
    source = node.inputs[0]
    known = source is not None and source.shape is not None and 1 <= len(source.shape) <= 4
    return source if known else mask  # type: ignore[return-value]


def _replace(
    model: ir.Model,
    attention: ir.Node,
    root: ir.Node,
    operator: FusedAttention,
    given: dict[str, ir.Value | None],
) -> None:
    inputs = [given.get(name) for name in INPUTS]
    node = call(
        model, operator.function(), inputs, operator.attributes(), str(attention.name or "")
    )
    ir.convenience.replace_nodes_and_values(
        model.graph, root, [root], [node], [root.outputs[0]], [node.outputs[0]]
    )
