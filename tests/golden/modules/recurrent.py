"""A text classifier on LSTMs in both directions."""

from __future__ import annotations

import torch
from torch import nn

from .spec import Spec, ids

WIDTH = 32


class Classifier(nn.Module):
    """The mean state of an LSTM and of a GRU on top of it, classified."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(64, WIDTH)
        self.lstm = nn.LSTM(WIDTH, 16, batch_first=True, bidirectional=True)
        self.gru = nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, 40)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x, _ = self.lstm(self.tokens(input_ids))
        x, _ = self.gru(x)
        return torch.log_softmax(self.head(x.mean(1)), dim=-1)


SPECS = (
    Spec(
        "lstm",
        Classifier,
        lambda: {"input_ids": ids(2, 10)},
        ("log_probs",),
        {"input_ids": {0: "batch"}},
    ),
)
