"""The shape of a Llama-family decoder: its sizes, rotary frequencies and weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bitfold.runtime.errors import ModelError


@dataclass(frozen=True)
class LlamaConfig:
    """The shape of a Llama-family decoder.

    Attributes:
        layers: number of decoder blocks.
        dim: width of the residual stream.
        heads: query heads.
        kv_heads: key and value heads; must divide `heads`.
        head_dim: width of one head; even.
        ffn: width of the gated MLP's hidden layer.
        vocab: number of tokens.
        rope_base: base of the rotary frequencies.
        norm_eps: epsilon of every RMSNorm.
        tied_head: whether the output projection is the embedding, transposed.
        context: the longest sequence the model was trained for, in tokens.
        rope_factors: divisors of the `head_dim/2` rotary frequencies (long-context scaling),
            or None for all ones.
    """

    layers: int
    dim: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    rope_base: float = 10000.0
    norm_eps: float = 1e-5
    tied_head: bool = False
    context: int = 2048
    rope_factors: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for field in ("layers", "dim", "heads", "kv_heads", "head_dim", "ffn", "vocab"):
            if getattr(self, field) < 1:
                raise ModelError(f"Llama configuration: {field} is {getattr(self, field)}")
        if self.heads % self.kv_heads:
            raise ModelError(
                f"Llama configuration: {self.kv_heads} KV heads do not divide {self.heads} heads"
            )
        if self.head_dim % 2:
            raise ModelError(f"Llama configuration: head_dim is {self.head_dim}, expected even")
        if self.rope_factors is not None and len(self.rope_factors) != self.head_dim // 2:
            raise ModelError(
                f"Llama configuration: {len(self.rope_factors)} RoPE factors, "
                f"expected head_dim/2 = {self.head_dim // 2}"
            )

    def inv_freq(self) -> np.ndarray:
        """The rotary frequencies in radians a position: f32[head_dim/2]."""
        exponent = np.arange(0, self.head_dim, 2, dtype=np.float64) / self.head_dim
        freq = self.rope_base**-exponent
        if self.rope_factors is not None:
            freq = freq / np.asarray(self.rope_factors, np.float64)
        return freq.astype(np.float32)

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Every weight by its name and shape; a projection is [out, in], as in checkpoints."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocab, self.dim)}
        for i in range(self.layers):
            layer = f"model.layers.{i}"
            shapes[f"{layer}.input_layernorm.weight"] = (self.dim,)
            shapes[f"{layer}.self_attn.q_proj.weight"] = (q, self.dim)
            shapes[f"{layer}.self_attn.k_proj.weight"] = (kv, self.dim)
            shapes[f"{layer}.self_attn.v_proj.weight"] = (kv, self.dim)
            shapes[f"{layer}.self_attn.o_proj.weight"] = (self.dim, q)
            shapes[f"{layer}.post_attention_layernorm.weight"] = (self.dim,)
            shapes[f"{layer}.mlp.gate_proj.weight"] = (self.ffn, self.dim)
            shapes[f"{layer}.mlp.up_proj.weight"] = (self.ffn, self.dim)
            shapes[f"{layer}.mlp.down_proj.weight"] = (self.dim, self.ffn)
        shapes["model.norm.weight"] = (self.dim,)
        if not self.tied_head:
            shapes["lm_head.weight"] = (self.vocab, self.dim)
        return shapes
