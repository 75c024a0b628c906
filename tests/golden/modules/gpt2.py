"""GPT-2 (Radford et al., 2019): one projection for query, key and value, and learned positions."""

from __future__ import annotations

import math

import torch
from torch import nn

from .spec import Spec, heads_first, heads_last, ids

WIDTH, HEADS, CONTEXT = 32, 4, 32


class Conv1D(nn.Module):
    """A linear layer with its weight as [in, out], on flattened rows."""

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.weight = nn.Parameter(torch.randn(inputs, outputs) / math.sqrt(inputs))
        self.bias = nn.Parameter(torch.randn(outputs) * 0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shape = (*x.size()[:-1], self.outputs)
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(shape)


class NewGelu(nn.Module):
    """GELU by tanh, written out."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))
        return 0.5 * x * (1.0 + torch.tanh(inner))


class Block(nn.Module):
    """Pre-norm causal attention and MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.c_attn, self.c_proj = Conv1D(3 * WIDTH, WIDTH), Conv1D(WIDTH, WIDTH)
        self.c_fc, self.c_out = Conv1D(2 * WIDTH, WIDTH), Conv1D(WIDTH, 2 * WIDTH)
        self.act = NewGelu()
        causal = torch.tril(torch.ones(CONTEXT, CONTEXT, dtype=torch.bool))
        self.register_buffer("causal", causal[None, None])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        length = x.shape[1]
        q, k, v = self.c_attn(self.ln_1(x)).split(WIDTH, dim=2)
        q, k, v = (heads_first(each, HEADS) for each in (q, k, v))
        scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(WIDTH // HEADS)
        hidden = torch.full([], torch.finfo(scores.dtype).min)
        scores = torch.where(self.causal[:, :, :length, :length], scores, hidden)
        x = x + self.c_proj(heads_last(torch.matmul(scores.softmax(-1), v)))
        return x + self.c_out(self.act(self.c_fc(self.ln_2(x))))


class GPT2(nn.Module):
    """Two blocks and a tied head."""

    def __init__(self) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(64, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.h = nn.ModuleList(Block() for _ in range(2))
        self.ln_f = nn.LayerNorm(WIDTH)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.wte(input_ids) + self.wpe(torch.arange(input_ids.shape[1])[None])
        for block in self.h:
            x = block(x)
        return self.ln_f(x) @ self.wte.weight.t()


SPECS = (
    Spec(
        "gpt2",
        GPT2,
        lambda: {"input_ids": ids(2, 10)},
        ("logits",),
        {"input_ids": {0: "batch", 1: "sequence"}},
    ),
)
