"""A tiny Llama: grouped-query attention, RoPE, gated MLP, tied head, K/V cache."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from bitfold.models.llama import LlamaConfig, build_llama
from bitfold.models.tiny.draw import Draw, rms

CONFIG = LlamaConfig(
    layers=2,
    dim=64,
    heads=4,
    kv_heads=2,
    head_dim=16,
    ffn=128,
    vocab=256,
    tied_head=True,
    context=64,
)
_LOGIT_GAIN = 0.15  # next-token entropies near 4 bits rather than 0 or 8


def decoder(seed: int, outliers: bool = True) -> ir.Model:
    """Builds the decoder; inputs and outputs are those of `build_llama`.

    Args:
        seed: determines every weight.
        outliers: whether the residual stream has outlier channels.
    """
    return build_llama(CONFIG, _weights(Draw(seed, 1), outliers))


def _weights(draw: Draw, outliers: bool) -> dict[str, np.ndarray]:
    scales = draw.channel_scales(CONFIG.dim, outliers)
    size = rms(scales)
    weights: dict[str, np.ndarray] = {}
    for name, shape in CONFIG.weight_shapes().items():
        if name == "model.embed_tokens.weight":
            weights[name] = draw.normal(*shape) * scales
        elif name == "model.norm.weight":
            # The tied head reads through the embedding's D, hence D⁻² here.
            gain = draw.normal(*shape, std=0.1, mean=1.0) * _LOGIT_GAIN
            weights[name] = gain * size / np.square(scales)
        elif len(shape) == 1:
            weights[name] = draw.normal(*shape, std=0.1, mean=1.0) * size
        elif name.endswith(("o_proj.weight", "down_proj.weight")):
            weights[name] = draw.linear(shape[0], shape[1], gain=2.0) * scales[:, None]
        else:
            weights[name] = draw.linear(shape[0], shape[1]) / scales
    return weights


def feeds(rng: np.random.Generator, batch: int, length: int) -> dict[str, np.ndarray]:
    """A prefill of `length` tokens with an empty cache; the last row is padded on the left."""
    keep = np.ones((batch, length), np.int64)
    keep[-1, : length // 4] = 0
    positions = np.maximum(np.cumsum(keep, axis=1) - 1, 0)
    cache = np.zeros((batch, CONFIG.kv_heads, 0, CONFIG.head_dim), np.float32)
    result = {
        "input_ids": rng.integers(0, CONFIG.vocab, (batch, length), np.int64),
        "attention_mask": keep,
        "position_ids": positions,
    }
    for i in range(CONFIG.layers):
        result[f"past_key_values.{i}.key"] = cache
        result[f"past_key_values.{i}.value"] = cache
    return result
