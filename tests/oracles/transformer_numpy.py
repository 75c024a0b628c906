"""Transformer layers in float64 NumPy, written down from their papers."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from scipy.special import erf

Weights = Mapping[str, np.ndarray]


def linear(weights: Weights, name: str, x: np.ndarray) -> np.ndarray:
    y = x @ weights[f"{name}.weight"].astype(np.float64).T
    return y + weights[f"{name}.bias"] if f"{name}.bias" in weights else y


def norm(weights: Weights, name: str, x: np.ndarray, eps: float) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + erf(x / math.sqrt(2)))


def attention(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, heads: int, visible: np.ndarray
) -> np.ndarray:
    """Heads one after the other: q [n, dim], k and v [m, dim], visible bool[n, m]."""
    size = q.shape[-1] // heads
    outputs = []
    for h in range(heads):
        part = slice(h * size, (h + 1) * size)
        scores = q[:, part] @ k[:, part].T / math.sqrt(size)
        scores = np.where(visible, scores, -np.inf)
        p = np.exp(scores - scores.max(-1, keepdims=True))
        outputs.append(p / p.sum(-1, keepdims=True) @ v[:, part])
    return np.concatenate(outputs, -1)


def bert_numpy(weights: Weights, heads: int, layers: int, ids: np.ndarray) -> np.ndarray:
    """BERT's last hidden state [n, dim] of one sequence i64[n] of type 0, without padding."""
    x = weights["embeddings.word_embeddings.weight"][ids].astype(np.float64)
    x = x + weights["embeddings.position_embeddings.weight"][: len(ids)]
    x = x + weights["embeddings.token_type_embeddings.weight"][0]
    x = norm(weights, "embeddings.LayerNorm", x, 1e-12)
    all_ = np.ones((len(ids), len(ids)), bool)
    for i in range(layers):
        name = f"encoder.layer.{i}"
        q, k, v = (
            linear(weights, f"{name}.attention.self.{n}", x) for n in ("query", "key", "value")
        )
        h = linear(weights, f"{name}.attention.output.dense", attention(q, k, v, heads, all_))
        x = norm(weights, f"{name}.attention.output.LayerNorm", x + h, 1e-12)
        h = gelu(linear(weights, f"{name}.intermediate.dense", x))
        h = linear(weights, f"{name}.output.dense", h)
        x = norm(weights, f"{name}.output.LayerNorm", x + h, 1e-12)
    return x


def whisper_encoder_numpy(weights: Weights, heads: int, layers: int, mel: np.ndarray) -> np.ndarray:
    """Whisper's hidden states [frames, dim] of a spectrogram [mels, 2·frames]."""
    name = "model.encoder"
    x = gelu(_conv(weights, f"{name}.conv1", mel, 1))
    x = gelu(_conv(weights, f"{name}.conv2", x, 2)).T
    x = x + weights[f"{name}.embed_positions.weight"]
    all_ = np.ones((len(x), len(x)), bool)
    for i in range(layers):
        x = _block(weights, f"{name}.layers.{i}", heads, x, None, all_)
    return norm(weights, f"{name}.layer_norm", x, 1e-5)


def whisper_decoder_numpy(
    weights: Weights, heads: int, layers: int, ids: np.ndarray, states: np.ndarray
) -> np.ndarray:
    """Whisper's logits [n, vocab] of tokens i64[n] and hidden states [frames, dim]."""
    name = "model.decoder"
    table = weights[f"{name}.embed_tokens.weight"].astype(np.float64)
    x = table[ids] + weights[f"{name}.embed_positions.weight"][: len(ids)]
    causal = np.tril(np.ones((len(ids), len(ids)), bool))
    for i in range(layers):
        x = _block(weights, f"{name}.layers.{i}", heads, x, states, causal)
    return norm(weights, f"{name}.layer_norm", x, 1e-5) @ table.T


def _block(
    weights: Weights,
    name: str,
    heads: int,
    x: np.ndarray,
    states: np.ndarray | None,
    visible: np.ndarray,
) -> np.ndarray:
    for which in ("self_attn", "encoder_attn")[: 1 if states is None else 2]:
        h = norm(weights, f"{name}.{which}_layer_norm", x, 1e-5)
        source = h
        if which == "encoder_attn":
            assert states is not None
            source, visible = states, np.ones((len(x), len(states)), bool)
        q = linear(weights, f"{name}.{which}.q_proj", h)
        k, v = (linear(weights, f"{name}.{which}.{n}_proj", source) for n in "kv")
        mixed = attention(q, k, v, heads, visible)
        x = x + linear(weights, f"{name}.{which}.out_proj", mixed)
    h = norm(weights, f"{name}.final_layer_norm", x, 1e-5)
    return x + linear(weights, f"{name}.fc2", gelu(linear(weights, f"{name}.fc1", h)))


def _conv(weights: Weights, name: str, x: np.ndarray, stride: int) -> np.ndarray:
    """A convolution of width 3 over [channels, n], one zero on either side."""
    w, padded = weights[f"{name}.weight"].astype(np.float64), np.pad(x, ((0, 0), (1, 1)))
    columns = [
        (w * padded[:, at : at + 3]).sum((1, 2)) + weights[f"{name}.bias"]
        for at in range(0, x.shape[1], stride)
    ]
    return np.stack(columns, -1)
