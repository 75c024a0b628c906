"""What Whisper's encoder and decoder share: their sizes, and blocks as exporters write them.

Architecture: Radford et al., 2022, arXiv 2212.04356.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx_ir as ir

from bitfold.models.layers import gelu, lazy_weight
from bitfold.models.lazy import Weights
from bitfold.models.scope import Scope

OPSET = 18
NORM_EPS = 1e-5


@dataclass(frozen=True)
class WhisperConfig:
    """The shape of a Whisper model.

    Attributes:
        layers: blocks of the encoder, and as many of the decoder.
        dim: width of the residual streams.
        heads: attention heads; must divide `dim`.
        ffn: width of the MLPs' hidden layers.
        vocab: number of tokens.
        mels: bands of the spectrogram.
        frames: positions of the encoder's output; it takes twice as many frames.
        positions: tokens that the decoder can hold.
    """

    layers: int
    dim: int
    heads: int
    ffn: int
    vocab: int
    mels: int = 80
    frames: int = 1500
    positions: int = 448

    def encoder_shapes(self) -> dict[str, tuple[int, ...]]:
        """Every weight of the encoder by its name and shape; a projection is [out, in]."""
        shapes: dict[str, tuple[int, ...]] = {
            "model.encoder.conv1.weight": (self.dim, self.mels, 3),
            "model.encoder.conv1.bias": (self.dim,),
            "model.encoder.conv2.weight": (self.dim, self.dim, 3),
            "model.encoder.conv2.bias": (self.dim,),
            "model.encoder.embed_positions.weight": (self.frames, self.dim),
            **self._norm("model.encoder.layer_norm"),
        }
        for i in range(self.layers):
            shapes |= self._block(f"model.encoder.layers.{i}", ("self_attn",))
        return shapes

    def decoder_shapes(self) -> dict[str, tuple[int, ...]]:
        """Every weight of the decoder likewise; the head is the embedding, transposed."""
        shapes: dict[str, tuple[int, ...]] = {
            "model.decoder.embed_tokens.weight": (self.vocab, self.dim),
            "model.decoder.embed_positions.weight": (self.positions, self.dim),
            **self._norm("model.decoder.layer_norm"),
        }
        for i in range(self.layers):
            shapes |= self._block(f"model.decoder.layers.{i}", ("self_attn", "encoder_attn"))
        return shapes

    def _block(self, name: str, attentions: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {}
        for attention in attentions:
            for kind in ("q_proj", "k_proj", "v_proj", "out_proj"):
                shapes[f"{name}.{attention}.{kind}.weight"] = (self.dim, self.dim)
                if kind != "k_proj":  # a bias of the keys would change no attention
                    shapes[f"{name}.{attention}.{kind}.bias"] = (self.dim,)
            shapes |= self._norm(f"{name}.{attention}_layer_norm")
        shapes[f"{name}.fc1.weight"], shapes[f"{name}.fc1.bias"] = (self.ffn, self.dim), (self.ffn,)
        shapes[f"{name}.fc2.weight"], shapes[f"{name}.fc2.bias"] = (self.dim, self.ffn), (self.dim,)
        return shapes | self._norm(f"{name}.final_layer_norm")

    def _norm(self, name: str) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (self.dim,), f"{name}.bias": (self.dim,)}


class Parts:
    """Layers of one graph under construction.

    Args:
        config: the shape of the model.
        weights: its weights, unread.
        shapes: what the graph's weights are called, and their shapes.
    """

    def __init__(
        self, config: WhisperConfig, weights: Weights, shapes: dict[str, tuple[int, ...]]
    ) -> None:
        self.config = config
        self._weights = weights
        self._shapes = shapes

    @property
    def head_dim(self) -> int:
        """The width of one head."""
        return self.config.dim // self.config.heads

    def weight(self, at: Scope, name: str, transpose: bool = False) -> ir.Value:
        """A weight, or its transpose, as an initializer."""
        return lazy_weight(at, self._weights, self._shapes, name, transpose)

    def linear(self, at: Scope, name: str, x: ir.Value) -> ir.Value:
        """x·Wᵀ + b; without b where the model has none."""
        y = at.add("MatMul", x, self.weight(at, f"{name}.weight", transpose=True))
        bias = f"{name}.bias"
        return at.add("Add", self.weight(at, bias), y) if bias in self._shapes else y

    def norm(self, at: Scope, name: str, x: ir.Value, out: str | None = None) -> ir.Value:
        """A LayerNorm over the last axis."""
        gain, bias = self.weight(at, f"{name}.weight"), self.weight(at, f"{name}.bias")
        return at.add("LayerNormalization", x, gain, bias, out=out, axis=-1, epsilon=NORM_EPS)

    def heads(self, at: Scope, name: str, x: ir.Value) -> ir.Value:
        """A projection, cut into heads: [batch, length, dim] → [batch, heads, length, head_dim]."""
        flat = self.linear(at.child(name.rpartition(".")[2]), name, x)
        split = at.add("Reshape", flat, [0, -1, self.config.heads, self.head_dim])
        return at.add("Transpose", split, perm=[0, 2, 1, 3])

    def attend(
        self,
        at: Scope,
        name: str,
        query: ir.Value,
        key: ir.Value,
        value: ir.Value,
        mask: ir.Value | None = None,
    ) -> ir.Value:
        """Attention of heads and its output projection: [batch, length, dim].

        The query is scaled, as in the reference implementation; `mask` is added to the scores.
        """
        scaled = at.add("Mul", query, 1 / math.sqrt(self.head_dim))
        scores = at.add("MatMul", scaled, at.add("Transpose", key, perm=[0, 1, 3, 2]))
        if mask is not None:
            scores = at.add("Add", scores, mask)
        mixed = at.add("MatMul", at.add("Softmax", scores, axis=-1), value)
        merged = at.add("Transpose", mixed, perm=[0, 2, 1, 3])
        merged = at.add("Reshape", merged, [0, -1, self.config.dim])
        return self.linear(at.child("out_proj"), f"{name}.out_proj", merged)

    def mlp(self, at: Scope, name: str, x: ir.Value) -> ir.Value:
        """The second half of a block, with its norm and residual."""
        h = self.norm(at.child("final_layer_norm"), f"{name}.final_layer_norm", x)
        h = self.linear(at.child("fc1"), f"{name}.fc1", h)
        h = gelu(at.child("activation_fn"), h)
        return at.add("Add", x, self.linear(at.child("fc2"), f"{name}.fc2", h))
