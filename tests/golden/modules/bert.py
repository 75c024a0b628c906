"""BERT (Devlin et al., 2018): post-norm encoders with a padding mask and a pooler."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from .spec import Spec, heads_first, heads_last, ids

WIDTH, HEADS, LAYERS = 32, 4, 2


class Layer(nn.Module):
    """Attention and MLP, each behind a residual and then a norm."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.fused = fused
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH, eps=1e-12), nn.LayerNorm(WIDTH, eps=1e-12)
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        q, k, v = (heads_first(each(x), HEADS) for each in (self.query, self.key, self.value))
        if self.fused:
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        else:
            scores = q @ k.transpose(-1, -2) / math.sqrt(WIDTH // HEADS) + mask
            mixed = scores.softmax(-1) @ v
        x = self.norm1(self.out(heads_last(mixed)) + x)
        return self.norm2(self.down(F.gelu(self.up(x))) + x)


class Bert(nn.Module):
    """Embeddings, layers, and a pooler on the first token."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.words, self.types = nn.Embedding(64, WIDTH), nn.Embedding(2, WIDTH)
        self.positions = nn.Embedding(32, WIDTH)
        self.register_buffer("position_ids", torch.arange(32)[None])
        self.norm = nn.LayerNorm(WIDTH, eps=1e-12)
        self.layers = nn.ModuleList(Layer(fused) for _ in range(LAYERS))
        self.pooler = nn.Linear(WIDTH, WIDTH)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        positions = self.positions(self.position_ids[:, : input_ids.shape[1]])
        x = self.norm(self.words(input_ids) + self.types(token_type_ids) + positions)
        kept = attention_mask[:, None, None, :].to(x.dtype)
        mask = (1.0 - kept) * torch.finfo(x.dtype).min
        if self.layers[0].fused:
            mask = mask.expand(-1, -1, input_ids.shape[1], -1)
        for layer in self.layers:
            x = layer(x, mask)
        return x, torch.tanh(self.pooler(x[:, 0]))


class TorchEncoder(nn.Module):
    """torch's own encoder, pre-norm, with a boolean padding mask."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, 2 * WIDTH, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)

    def forward(self, x: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        return self.encoder(x, src_key_padding_mask=padding)


def _inputs() -> dict[str, torch.Tensor]:
    mask = torch.ones(2, 12, dtype=torch.int64)
    mask[1, 8:] = 0
    return {
        "input_ids": ids(2, 12),
        "attention_mask": mask,
        "token_type_ids": ids(2, 12, limit=2),
    }


AXES = {0: "batch", 1: "sequence"}
NAMES = ("input_ids", "attention_mask", "token_type_ids")
SPECS = (
    *(
        Spec(
            name,
            lambda fused=fused: Bert(fused),
            _inputs,
            ("last_hidden_state", "pooler_output"),
            dict.fromkeys(NAMES, AXES),
        )
        for name, fused in (("bert", False), ("bert_sdpa", True))
    ),
    Spec(
        "torch_encoder",
        TorchEncoder,
        lambda: {
            "x": torch.randn(2, 12, WIDTH),
            "padding": torch.arange(12) >= torch.tensor([[12], [8]]),
        },
        ("y",),
        {"x": AXES, "padding": AXES},
    ),
)
