"""What a projection is for: query, key or value of an attention, or the gate of a gated MLP."""

from __future__ import annotations

from collections import deque

import onnx_ir as ir

# Ops that hand a projection on without mixing it with another.
CARRIERS = frozenset(
    {"Add", "Reshape", "Transpose", "RotaryEmbedding", "Unsqueeze", "Squeeze", "Identity", "Mul"}
    | {"RMSNormalization", "LayerNormalization", "Split", "Slice", "Gather", "Concat"}
)
ATTENTIONS = frozenset({"Attention", "GroupQueryAttention", "MultiHeadAttention", "FusedAttention"})
GATES = frozenset({"Sigmoid", "Gelu", "Relu", "Tanh", "HardSigmoid", "HardSwish", "Softplus"})
REACH = 12
"""How many ops a projection is followed through."""


def role(output: ir.Value) -> int | None:
    """Where the value goes: 0, 1, 2 as query, key, value; 0 as a gate; 1 beside one; else None."""
    if any(node.op_type in GATES for node, _ in output.uses()):
        return 0
    for node, index in output.uses():
        if node.op_type == "Mul" and _is_gated(node.inputs[1 - index]):
            return 1
    return _attention_input(output)


def gated_by(gate: ir.Value) -> ir.Value | None:
    """What the value is the gate of: the other factor behind its activation; None if nothing."""
    pending = [(gate, 0)]
    while pending:
        value, depth = pending.pop()
        for node, index in value.uses():
            if node.op_type in GATES and depth == 0:
                pending.append((node.outputs[0], 1))
            elif node.op_type == "Mul" and depth > 0:
                other = node.inputs[1 - index]
                if other is not gate:
                    return other
                pending.append((node.outputs[0], 2))  # gate * Sigmoid(gate)
    return None


def _is_gated(value: ir.Value | None) -> bool:
    """Whether the value is an activation, or x * Sigmoid(x)."""
    node = value.producer() if value is not None else None
    if node is None:
        return False
    if node.op_type in GATES:
        return True
    return node.op_type == "Mul" and any(
        each is not None and each.producer() is not None and each.producer().op_type in GATES  # type: ignore[union-attr]
        for each in node.inputs
    )


def _attention_input(output: ir.Value) -> int | None:
    pending = deque([(output, 0)])
    seen: set[ir.Value] = set()
    while pending:
        value, depth = pending.popleft()
        if value in seen or depth > REACH:
            continue
        seen.add(value)
        for node, index in value.uses():
            if node.op_type in ATTENTIONS and index < 3:
                return index
            if node.op_type in CARRIERS and index == 0:
                pending.extend((each, depth + 1) for each in node.outputs)
    return None
