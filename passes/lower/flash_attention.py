"""Long attention without a mask as the op of ORT that never holds all scores at once."""

from __future__ import annotations

import onnx_ir as ir

from bitfold.passes.core.targets import ORT_DOMAIN

LONG = 512
"""Keys from which MultiHeadAttention is the faster one on ORT 1.31 for a CPU: 1500 of 6 heads of
64 take 10 ms, the standard op 11.7 (2 threads); 256 take as long on either."""


def to_flash_attention(graph: ir.Graph, attention: ir.Node) -> bool:
    """Make a long flat Attention a com.microsoft MultiHeadAttention; return whether it is one now.

    It stays where the number of keys is not known or small, where there is a mask or a cache,
    where K/V heads are shared or of another size, and where the scores are changed or used.
    """
    q, k, v = attention.inputs[:3]
    if q is None or k is None or v is None or any(attention.inputs[3:]):
        return False
    attributes = attention.attributes
    heads = attributes.get_int("q_num_heads", 0)
    if not heads or heads != attributes.get_int("kv_num_heads", 0):
        return False
    if any(attributes.get_int(name, 0) for name in ("is_causal", "qk_matmul_output_mode")):
        return False
    if attributes.get_float("softcap", 0.0) or any(each.uses() for each in attention.outputs[1:]):
        return False
    widths = {each.shape[-1] if each.shape is not None else None for each in (q, k, v)}
    keys = k.shape[1] if k.shape is not None and len(k.shape) == 3 else None
    if not isinstance(keys, int) or keys < LONG or len(widths) != 1 or None in widths:
        return False
    scale = attributes.get_float("scale", 0.0)
    new = ir.node(
        "MultiHeadAttention",
        [q, k, v],
        {"num_heads": heads, **({"scale": scale} if scale else {})},
        domain=ORT_DOMAIN,
        name=attention.name,
    )
    ir.convenience.replace_nodes_and_values(
        graph, attention, [attention], [new], [attention.outputs[0]], [new.outputs[0]]
    )
    graph.opset_imports[ORT_DOMAIN] = 1
    return True
