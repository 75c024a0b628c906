"""Whisper (Radford et al., 2022): a convolutional stem, an encoder, and a decoder with a cache."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from .spec import Spec, heads_first, heads_last, ids

WIDTH, HEADS, FRAMES = 32, 4, 16


class Attention(nn.Module):
    """Self or cross attention; the key has no bias, and the query takes the scale."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.v_proj, self.out_proj = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.k_proj = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(
        self,
        x: torch.Tensor,
        source: torch.Tensor,
        mask: torch.Tensor | None = None,
        past: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        q = heads_first(self.q_proj(x) * (WIDTH // HEADS) ** -0.5, HEADS)
        k, v = heads_first(self.k_proj(source), HEADS), heads_first(self.v_proj(source), HEADS)
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        scores = torch.matmul(q, k.transpose(2, 3))
        if mask is not None:
            scores = scores + mask
        mixed = torch.matmul(F.softmax(scores, dim=-1), v)
        return self.out_proj(heads_last(mixed)), k, v


class MLP(nn.Sequential):
    """Two linear layers around GELU."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))


class EncoderLayer(nn.Module):
    """Pre-norm."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.mlp = Attention(), MLP()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm1(x)
        x = x + self.attention(y, y)[0]
        return x + self.mlp(self.norm2(x))


class Encoder(nn.Module):
    """Mel frames [batch, 8, 2 * FRAMES] to states [batch, FRAMES, WIDTH]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(8, WIDTH, 3, padding=1)
        self.conv2 = nn.Conv1d(WIDTH, WIDTH, 3, stride=2, padding=1)
        self.positions = nn.Parameter(torch.randn(FRAMES, WIDTH) * 0.1)
        self.layers = nn.ModuleList(EncoderLayer() for _ in range(2))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        x = F.gelu(self.conv2(F.gelu(self.conv1(mel))))
        x = x.permute(0, 2, 1) + self.positions
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


class Decoder(nn.Module):
    """One layer: causal self-attention with a cache, cross-attention, MLP; the head is tied."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(64, WIDTH), nn.Embedding(32, WIDTH)
        self.attention, self.cross, self.mlp = Attention(), Attention(), MLP()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(4))

    def forward(
        self,
        input_ids: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        past_key: torch.Tensor,
        past_value: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        start, length = past_key.shape[2], input_ids.shape[1]
        positions = torch.arange(start, start + length)
        x = self.tokens(input_ids) + self.positions(positions)
        hidden = torch.arange(start + length)[None, :] > positions[:, None]
        mask = torch.zeros(hidden.shape).masked_fill(hidden, torch.finfo(torch.float32).min)
        y = self.norms[0](x)
        y, key, value = self.attention(y, y, mask[None, None], (past_key, past_value))
        x = x + y
        x = x + self.cross(self.norms[1](x), encoder_hidden_states)[0]
        x = self.norms[3](x + self.mlp(self.norms[2](x)))
        return x @ self.tokens.weight.t(), key, value


def _decoder_inputs() -> dict[str, torch.Tensor]:
    return {
        "input_ids": ids(2, 3),
        "encoder_hidden_states": torch.randn(2, FRAMES, WIDTH),
        "past_key": torch.randn(2, HEADS, 4, WIDTH // HEADS),
        "past_value": torch.randn(2, HEADS, 4, WIDTH // HEADS),
    }


SPECS = (
    Spec(
        "whisper_encoder",
        Encoder,
        lambda: {"mel": torch.randn(2, 8, 2 * FRAMES)},
        ("last_hidden_state",),
        {"mel": {0: "batch"}},
    ),
    Spec(
        "whisper_decoder",
        Decoder,
        _decoder_inputs,
        ("logits", "present_key", "present_value"),
        {
            "input_ids": {0: "batch", 1: "sequence"},
            "encoder_hidden_states": {0: "batch"},
            "past_key": {0: "batch", 2: "past"},
            "past_value": {0: "batch", 2: "past"},
        },
    ),
)
