"""Llama-like decoders: RMSNorm, rotary embedding in several forms, shared K/V heads, SwiGLU."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from .spec import Spec, heads_first, heads_last, ids

WIDTH, HEADS, KV_HEADS, HEAD = 32, 4, 2, 16


class RMSNorm(nn.Module):
    """Scaling by the root mean square."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(1 + 0.1 * torch.randn(WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        variance = x.pow(2).mean(-1, keepdim=True)
        return self.weight * (x * torch.rsqrt(variance + 1e-5))


def rotate_half(x: torch.Tensor) -> torch.Tensor:
    """The halves of the last axis swapped, the new first one negated."""
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), dim=-1)


def inverse_frequencies(size: int) -> torch.Tensor:
    """f32[size / 2]."""
    return 1.0 / (10000 ** (torch.arange(0, size, 2).float() / size))


class HalfRope(nn.Module):
    """Halves rotated, angles computed from the positions."""

    def __init__(self, size: int = HEAD) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("inverse", inverse_frequencies(size), persistent=False)

    def tables(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        inverse = self.inverse[None, :, None].float().expand(positions.shape[0], -1, 1)
        angles = (inverse @ positions[:, None, :].float()).transpose(1, 2)
        both = torch.cat((angles, angles), dim=-1)
        return both.cos(), both.sin()

    def forward(
        self, q: torch.Tensor, k: torch.Tensor, positions: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        cos, sin = (each.unsqueeze(1) for each in self.tables(positions))
        return tuple(x * cos + rotate_half(x) * sin for x in (q, k))


class PartialRope(HalfRope):
    """The first half of each head rotated, by tables that positions index."""

    def __init__(self) -> None:
        super().__init__(HEAD // 2)
        angles = torch.outer(torch.arange(32).float(), inverse_frequencies(self.size))
        both = torch.cat((angles, angles), dim=-1)
        self.register_buffer("cos_cached", both.cos(), persistent=False)
        self.register_buffer("sin_cached", both.sin(), persistent=False)

    def forward(
        self, q: torch.Tensor, k: torch.Tensor, positions: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        cos = self.cos_cached[positions].unsqueeze(1)
        sin = self.sin_cached[positions].unsqueeze(1)
        rotated = []
        for x in (q, k):
            turned, rest = x[..., : self.size], x[..., self.size :]
            turned = turned * cos + rotate_half(turned) * sin
            rotated.append(torch.cat((turned, rest), dim=-1))
        return tuple(rotated)


class InterleavedRope(HalfRope):
    """Neighbours rotated."""

    def forward(
        self, q: torch.Tensor, k: torch.Tensor, positions: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        angles = positions[:, :, None].float() * self.inverse
        cos, sin = angles.cos()[:, None], angles.sin()[:, None]
        rotated = []
        for x in (q, k):
            even, odd = x[..., 0::2], x[..., 1::2]
            pair = (even * cos - odd * sin, even * sin + odd * cos)
            rotated.append(torch.stack(pair, dim=-1).flatten(-2))
        return tuple(rotated)


class RepeatedRope(HalfRope):
    """Neighbours rotated, as GPT-J and RoFormer write it: tables repeated, halves stacked."""

    def forward(
        self, q: torch.Tensor, k: torch.Tensor, positions: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        angles = positions[:, :, None].float() * self.inverse
        sin = torch.repeat_interleave(angles.sin()[:, None], 2, -1)
        cos = torch.repeat_interleave(angles.cos()[:, None], 2, -1)
        rotated = []
        for x in (q, k):
            turned = torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)
            rotated.append(x * cos + turned * sin)
        return tuple(rotated)


def repeat_kv(x: torch.Tensor) -> torch.Tensor:
    """Each K/V head as often as query heads share it."""
    batch, heads, length, head = x.shape
    shared = HEADS // heads
    x = x[:, :, None].expand(batch, heads, shared, length, head)
    return x.reshape(batch, heads * shared, length, head)


class Layer(nn.Module):
    """Attention and a gated MLP, pre-norm."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.fused = fused
        self.q_proj = nn.Linear(WIDTH, HEADS * HEAD, bias=False)
        self.k_proj = nn.Linear(WIDTH, KV_HEADS * HEAD, bias=False)
        self.v_proj = nn.Linear(WIDTH, KV_HEADS * HEAD, bias=False)
        self.o_proj = nn.Linear(HEADS * HEAD, WIDTH, bias=False)
        self.gate, self.up = (nn.Linear(WIDTH, 48, bias=False) for _ in range(2))
        self.down = nn.Linear(48, WIDTH, bias=False)
        self.norm1, self.norm2 = RMSNorm(), RMSNorm()

    def forward(self, x, rope, positions, mask, past):  # type: ignore[no-untyped-def]
        y = self.norm1(x)
        q = heads_first(self.q_proj(y), HEADS)
        k, v = (heads_first(each(y), KV_HEADS) for each in (self.k_proj, self.v_proj))
        q, k = rope(q, k, positions)
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        wide_k, wide_v = repeat_kv(k), repeat_kv(v)
        if self.fused:
            mixed = F.scaled_dot_product_attention(q, wide_k, wide_v, attn_mask=mask)
        else:
            scores = torch.matmul(q, wide_k.transpose(2, 3)) * HEAD**-0.5 + mask
            probs = F.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)
            mixed = torch.matmul(probs, wide_v)
        x = x + self.o_proj(heads_last(mixed))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y)), k, v


class Llama(nn.Module):
    """One layer, with or without a cache."""

    def __init__(self, rope: type[HalfRope], fused: bool) -> None:
        super().__init__()
        self.tokens = nn.Embedding(64, WIDTH)
        self.rope, self.layer, self.norm = rope(), Layer(fused), RMSNorm()
        self.head = nn.Linear(WIDTH, 64, bias=False)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        past_key: torch.Tensor | None = None,
        past_value: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, ...]:
        x = self.tokens(input_ids)
        length, total = input_ids.shape[1], attention_mask.shape[1]
        steps = torch.arange(total - length, total)
        seen = torch.arange(total)[None, :] <= steps[:, None]
        seen = seen[None, None] & attention_mask[:, None, None, :].bool()
        mask = torch.where(seen, 0.0, torch.finfo(torch.float32).min)
        past = None if past_key is None else (past_key, past_value)
        x, k, v = self.layer(x, self.rope, position_ids, mask, past)
        logits = self.head(self.norm(x))
        return (logits,) if past is None else (logits, k, v)


def _inputs() -> dict[str, torch.Tensor]:
    mask = torch.ones(2, 7, dtype=torch.int64)
    mask[0, :2] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    return {"input_ids": ids(2, 7), "attention_mask": mask, "position_ids": positions}


def _cached_inputs() -> dict[str, torch.Tensor]:
    return {
        "input_ids": ids(2, 3),
        "attention_mask": torch.ones(2, 8, dtype=torch.int64),
        "position_ids": torch.arange(5, 8).repeat(2, 1),
        "past_key": torch.randn(2, KV_HEADS, 5, HEAD),
        "past_value": torch.randn(2, KV_HEADS, 5, HEAD),
    }


AXES = {0: "batch", 1: "sequence"}
FORMS = (
    ("llama", HalfRope, False),
    ("llama_sdpa", HalfRope, True),
    ("llama_interleaved", InterleavedRope, False),
    ("gptj_rope", RepeatedRope, False),
    ("neox_rope", PartialRope, False),
)
SPECS = (
    *(
        Spec(
            name,
            lambda rope=rope, fused=fused: Llama(rope, fused),
            _inputs,
            ("logits",),
            dict.fromkeys(("input_ids", "attention_mask", "position_ids"), AXES),
        )
        for name, rope, fused in FORMS
    ),
    Spec(
        "llama_cache",
        lambda: Llama(HalfRope, True),
        _cached_inputs,
        ("logits", "present_key", "present_value"),
        {
            "input_ids": AXES,
            "attention_mask": {0: "batch", 1: "total"},
            "position_ids": AXES,
            "past_key": {0: "batch", 2: "past"},
            "past_value": {0: "batch", 2: "past"},
        },
    ),
)
