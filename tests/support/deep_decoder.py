"""Decoders of any depth in the form that canonicalize leaves, with SmolLM2's structure and widths.

Weights are views of one number: they take no memory, however deep the model.
"""

from __future__ import annotations

import numpy as np
import onnx.parser
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

SMOLLM2 = {"dim": 576, "heads": 9, "kv_heads": 3, "head_dim": 64, "ffn": 1536, "vocab": 49152}
SMALL = {"dim": 24, "heads": 3, "kv_heads": 1, "head_dim": 8, "ffn": 40, "vocab": 50}

_LAYER = """
    n{i} = RMSNormalization<axis = -1>(h{i}, gain{i})
    q{i} = MatMul(n{i}, wq{i})
    k{i} = MatMul(n{i}, wk{i})
    v{i} = MatMul(n{i}, wv{i})
    qh{i} = Reshape(q{i}, to_q)
    kh{i} = Reshape(k{i}, to_kv)
    vh{i} = Reshape(v{i}, to_kv)
    qt{i} = Transpose<perm = [0, 2, 1, 3]>(qh{i})
    kt{i} = Transpose<perm = [0, 2, 1, 3]>(kh{i})
    vt{i} = Transpose<perm = [0, 2, 1, 3]>(vh{i})
    qr{i} = RotaryEmbedding(qt{i}, cos, sin, at)
    kr{i} = RotaryEmbedding(kt{i}, cos, sin, at)
    a{i}, nk{i}, nv{i} = Attention(qr{i}, kr{i}, vt{i}, , pk{i}, pv{i})
    at{i} = Transpose<perm = [0, 2, 1, 3]>(a{i})
    o{i} = Reshape(at{i}, flat)
    p{i} = MatMul(o{i}, wo{i})
    m{i} = Add(h{i}, p{i})
    l{i} = RMSNormalization<axis = -1>(m{i}, late{i})
    g{i} = MatMul(l{i}, gate{i})
    s{i} = Sigmoid(g{i})
    z{i} = Mul(g{i}, s{i})
    u{i} = MatMul(l{i}, up{i})
    x{i} = Mul(z{i}, u{i})
    d{i} = MatMul(x{i}, down{i})
    h{j} = Add(m{i}, d{i})
"""


def deep_decoder(
    layers: int, dim: int, heads: int, kv_heads: int, head_dim: int, ffn: int, vocab: int
) -> ir.Model:
    """A decoder with grouped K/V heads, RoPE, a gated MLP and a K/V cache."""
    cache = f"float[b, {kv_heads}, {{t}}, {head_dim}] {{n}}"
    given = [cache.format(t="past", n=f"p{x}{i}") for i in range(layers) for x in "kv"]
    kept = [cache.format(t="total", n=f"n{x}{i}") for i in range(layers) for x in "kv"]
    body = "".join(_LAYER.format(i=i, j=i + 1) for i in range(layers))
    q, kv = heads * head_dim, kv_heads * head_dim
    shapes = {"wq": (dim, q), "wk": (dim, kv), "wv": (dim, kv), "wo": (q, dim)}
    shapes |= {"gate": (dim, ffn), "up": (dim, ffn), "down": (ffn, dim)}
    constants = {
        "table": _constant(vocab, dim),
        "head": _constant(dim, vocab),
        "cos": _constant(64, head_dim // 2),
        "sin": _constant(64, head_dim // 2),
        "last": np.linspace(0.5, 1.5, dim, dtype=np.float32),
        "to_q": np.array([0, 0, heads, head_dim]),
        "to_kv": np.array([0, 0, kv_heads, head_dim]),
        "flat": np.array([0, 0, q]),
    }
    for i in range(layers):
        constants |= {f"{name}{i}": _constant(*shape) for name, shape in shapes.items()}
        constants |= {f"{name}{i}": constants["last"] for name in ("gain", "late")}
    return _parsed(
        f"""<ir_version: 10, opset_import: ["": 23]>
        g (int64[b, s] ids, int64[b, s] at, {", ".join(given)})
            => (float[b, s, {vocab}] logits, {", ".join(kept)}) {{
            h0 = Gather(table, ids)
            {body}
            n = RMSNormalization<axis = -1>(h{layers}, last)
            logits = MatMul(n, head)
        }}""",
        constants,
    )


def _parsed(text: str, constants: dict[str, np.ndarray]) -> ir.Model:
    """As `graphs.parse`, in time that grows with the graph, and without copies of constants."""
    model = ir.from_proto(onnx.parser.parse_model(text))
    read = {value.name: value for node in model.graph for value in node.inputs if value is not None}
    for name, array in constants.items():
        value = read[name]
        value.const_value = ir.tensor(array, name=name)
        value.type = ir.TensorType(value.const_value.dtype)
        value.shape = ir.Shape(array.shape)
        model.graph.register_initializer(value)
    ShapeInferencePass()(model)
    return model


def _constant(*shape: int) -> np.ndarray:
    return np.broadcast_to(np.float32(0.02), shape)
