"""Mixtures of experts: every expert on every token, or each on its own tokens."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from .spec import Spec

WIDTH, HIDDEN, EXPERTS, CHOSEN = 32, 40, 4, 2


class Expert(nn.Module):
    """A gated MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up = (nn.Linear(WIDTH, HIDDEN, bias=False) for _ in range(2))
        self.down = nn.Linear(HIDDEN, WIDTH, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Experts(nn.Module):
    """A router and its experts (Shazeer et al., 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(WIDTH, EXPERTS, bias=False)
        self.experts = nn.ModuleList(Expert() for _ in range(EXPERTS))

    def route(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scores, chosen = torch.topk(self.router(x).softmax(-1), CHOSEN, dim=-1)
        return scores / scores.sum(-1, keepdim=True), chosen


class DenseExperts(Experts):
    """Each expert sees all tokens; a mask of the best two weighs them."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores, chosen = self.route(x)
        weights = torch.zeros(*x.shape[:-1], EXPERTS).scatter(-1, chosen, scores)
        outputs = torch.stack([expert(x) for expert in self.experts], dim=-1)
        return (outputs * weights[..., None, :]).sum(-1)


class GatheredExperts(Experts):
    """Each expert sees the tokens that chose it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.reshape(-1, WIDTH)
        scores, chosen = self.route(rows)
        total = torch.zeros_like(rows)
        for number, expert in enumerate(self.experts):
            token, rank = torch.where(chosen == number)
            weighed = expert(rows[token]) * scores[token, rank, None]
            total = total.index_add(0, token, weighed)
        return total.view(x.shape)


class WeightTable(nn.Module):
    """The experts' weights in one tensor, of which each token takes its own."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(WIDTH, EXPERTS, bias=False)
        self.up = nn.Parameter(torch.randn(EXPERTS, WIDTH, HIDDEN) / WIDTH**0.5)
        self.down = nn.Parameter(torch.randn(EXPERTS, HIDDEN, WIDTH) / HIDDEN**0.5)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.reshape(-1, WIDTH)
        scores, chosen = torch.topk(self.router(rows).softmax(-1), 1, dim=-1)
        up, down = self.up[chosen[:, 0]], self.down[chosen[:, 0]]
        hidden = F.relu(torch.bmm(rows[:, None], up))
        return self.out((torch.bmm(hidden, down)[:, 0] * scores).view(x.shape))


SPECS = tuple(
    Spec(
        name,
        build,
        lambda: {"x": torch.randn(2, 6, WIDTH)},
        ("y",),
        {"x": {0: "batch", 1: "sequence"}},
    )
    for name, build in (
        ("moe_dense", DenseExperts),
        ("moe_gather", GatheredExperts),
        ("moe_table", WeightTable),
    )
)
