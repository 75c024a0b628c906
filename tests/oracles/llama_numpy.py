"""A Llama forward pass in NumPy straight from a GGUF file: the oracle of the GGUF importer.

Written from the file format's own conventions (interleaved rotary pairs, [out, in] weights) and
sharing no code with the package, so that a mistake in one does not hide in the other. All
arithmetic is f64; no cache, no batch, no mask other than the causal one.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np


def gguf_logits(path: Path, token_ids: list[int] | np.ndarray) -> np.ndarray:
    """The logits f64[n, vocab] of one sequence of n tokens."""
    reader = gguf.GGUFReader(path)
    weights = {
        t.name: gguf.dequantize(t.data, t.tensor_type)
        .astype(np.float64)
        .reshape([int(d) for d in t.shape[::-1]])
        for t in reader.tensors
    }

    def meta(key: str) -> float:
        return reader.fields[f"llama.{key}"].contents()

    heads = int(meta("attention.head_count"))
    kv_heads = int(meta("attention.head_count_kv"))
    eps = np.float64(np.float32(meta("attention.layer_norm_rms_epsilon")))
    base = float(meta("rope.freq_base"))
    x = weights["token_embd.weight"][np.asarray(token_ids)]
    for i in range(int(meta("block_count"))):
        block = {k.split(".", 2)[2]: v for k, v in weights.items() if k.startswith(f"blk.{i}.")}
        h = _rms_norm(x, block["attn_norm.weight"], eps)
        x = x + _attention(h, block, heads, kv_heads, base, weights.get("rope_freqs.weight"))
        h = _rms_norm(x, block["ffn_norm.weight"], eps)
        gate = h @ block["ffn_gate.weight"].T
        up = h @ block["ffn_up.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * up) @ block["ffn_down.weight"].T
    x = _rms_norm(x, weights["output_norm.weight"], eps)
    return x @ weights.get("output.weight", weights["token_embd.weight"]).T


def _rms_norm(x: np.ndarray, gain: np.ndarray, eps: float) -> np.ndarray:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * gain


def _attention(
    x: np.ndarray,
    block: dict[str, np.ndarray],
    heads: int,
    kv_heads: int,
    base: float,
    factors: np.ndarray | None,
) -> np.ndarray:
    n = len(x)
    query = (x @ block["attn_q.weight"].T).reshape(n, heads, -1)
    key = (x @ block["attn_k.weight"].T).reshape(n, kv_heads, -1)
    value = (x @ block["attn_v.weight"].T).reshape(n, kv_heads, -1)
    query, key = _rotate(query, base, factors), _rotate(key, base, factors)
    mixed = np.empty_like(query)
    for head in range(heads):
        shared = head // (heads // kv_heads)
        for t in range(n):
            scores = key[: t + 1, shared] @ query[t, head] / np.sqrt(query.shape[-1])
            weight = np.exp(scores - scores.max())
            mixed[t, head] = weight / weight.sum() @ value[: t + 1, shared]
    return mixed.reshape(n, -1) @ block["attn_output.weight"].T


def _rotate(x: np.ndarray, base: float, factors: np.ndarray | None) -> np.ndarray:
    """Turn the pair (x[2p], x[2p+1]) of every head as one complex number."""
    n, _, width = x.shape
    freq = base ** (-np.arange(width // 2) * 2.0 / width)
    if factors is not None:
        freq = freq / factors
    turn = np.exp(1j * np.outer(np.arange(n), freq))[:, None, :]
    turned = (x[..., 0::2] + 1j * x[..., 1::2]) * turn
    return np.stack([turned.real, turned.imag], -1).reshape(x.shape)
