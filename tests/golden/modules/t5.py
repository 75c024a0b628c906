"""T5 (Raffel et al., 2020): RMSNorm, a relative position bias, unscaled and cross attention."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from .spec import Spec, heads_first, heads_last, ids

WIDTH, HEADS, BUCKETS = 32, 4, 8


class RMSNorm(nn.Module):
    """Scaling by the root mean square, in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(1 + 0.1 * torch.randn(WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        variance = x.to(torch.float32).pow(2).mean(-1, keepdim=True)
        return self.weight * (x * torch.rsqrt(variance + 1e-6))


def bucket(distance: torch.Tensor, both_ways: bool) -> torch.Tensor:
    """The bucket of each distance: exact when near, logarithmic when far."""
    result = torch.zeros_like(distance)
    count = BUCKETS
    if both_ways:
        count //= 2
        result = result + (distance > 0).to(torch.long) * count
        distance = distance.abs()
    else:
        distance = -torch.min(distance, torch.zeros_like(distance))
    near = count // 2
    far = near + (torch.log(distance.float() / near) / math.log(32 / near) * (count - near)).to(
        torch.long
    )
    far = torch.min(far, torch.full_like(far, count - 1))
    return result + torch.where(distance < near, distance, far)


class Attention(nn.Module):
    """Unscaled, without biases."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))

    def forward(
        self, x: torch.Tensor, source: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        q, k, v = (heads_first(each, HEADS) for each in (self.q(x), self.k(source), self.v(source)))
        scores = torch.matmul(q, k.transpose(3, 2))
        if bias is not None:
            scores = scores + bias
        probs = F.softmax(scores.float(), dim=-1).type_as(scores)
        return self.o(heads_last(torch.matmul(probs, v)))


class MLP(nn.Module):
    """ReLU, or GELU (by tanh) with a gate."""

    def __init__(self, gated: bool) -> None:
        super().__init__()
        self.wi, self.wo = (
            nn.Linear(WIDTH, 2 * WIDTH, bias=False),
            nn.Linear(2 * WIDTH, WIDTH, bias=False),
        )
        self.gate = nn.Linear(WIDTH, 2 * WIDTH, bias=False) if gated else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.gate is None:
            return self.wo(F.relu(self.wi(x)))
        return self.wo(F.gelu(self.gate(x), approximate="tanh") * self.wi(x))


class Stack(nn.Module):
    """One layer of the encoder, or of the decoder."""

    def __init__(self, decoder: bool, gated: bool) -> None:
        super().__init__()
        self.decoder = decoder
        self.relative = nn.Embedding(BUCKETS, HEADS)
        self.attention, self.mlp = Attention(), MLP(gated)
        self.cross = Attention() if decoder else None
        self.norms = nn.ModuleList(RMSNorm() for _ in range(4))

    def forward(
        self, x: torch.Tensor, mask: torch.Tensor, states: torch.Tensor | None = None
    ) -> torch.Tensor:
        steps = torch.arange(x.shape[1])
        distance = steps[None, :] - steps[:, None]
        bias = self.relative(bucket(distance, not self.decoder)).permute([2, 0, 1])[None]
        if self.decoder:
            bias = bias + torch.where(distance > 0, torch.finfo(x.dtype).min, 0.0)
        else:
            bias = bias + mask
        y = self.norms[0](x)
        x = x + self.attention(y, y, bias)
        if self.cross is not None:
            x = x + self.cross(self.norms[1](x), states, mask)
        return self.norms[3](x + self.mlp(self.norms[2](x)))


class T5(nn.Module):
    """Encoder, decoder and head."""

    def __init__(self, gated: bool) -> None:
        super().__init__()
        self.shared = nn.Embedding(64, WIDTH)
        self.encoder, self.decoder = Stack(False, gated), Stack(True, gated)
        self.lm_head = nn.Linear(WIDTH, 64, bias=False)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        decoder_input_ids: torch.Tensor,
    ) -> torch.Tensor:
        mask = (1.0 - attention_mask[:, None, None, :].float()) * torch.finfo(torch.float32).min
        states = self.encoder(self.shared(input_ids), mask)
        return self.lm_head(self.decoder(self.shared(decoder_input_ids), mask, states))


def _inputs() -> dict[str, torch.Tensor]:
    mask = torch.ones(2, 9, dtype=torch.int64)
    mask[0, 6:] = 0
    return {"input_ids": ids(2, 9), "attention_mask": mask, "decoder_input_ids": ids(2, 5)}


SPECS = tuple(
    Spec(
        name,
        lambda gated=gated: T5(gated),
        _inputs,
        ("logits",),
        {
            "input_ids": {0: "batch", 1: "sequence"},
            "attention_mask": {0: "batch", 1: "sequence"},
            "decoder_input_ids": {0: "batch", 1: "decoder_sequence"},
        },
    )
    for name, gated in (("t5", False), ("t5_gated", True))
)
