"""What is needed to export a module."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True)
class Spec:
    """One module to export.

    Attributes:
        name: the file's stem.
        build: makes the module, from torch's seeded generator.
        inputs: makes the example inputs by name, in the order of ``forward``.
        outputs: names of the outputs.
        dynamic: the names of dynamic axes, by input and axis.
    """

    name: str
    build: Callable[[], torch.nn.Module]
    inputs: Callable[[], dict[str, torch.Tensor]]
    outputs: tuple[str, ...]
    dynamic: dict[str, dict[int, str]] = field(default_factory=dict)


def heads_first(x: torch.Tensor, heads: int) -> torch.Tensor:
    """[batch, sequence, heads * head] to [batch, heads, sequence, head]."""
    batch, length, width = x.shape
    return x.view(batch, length, heads, width // heads).transpose(1, 2)


def heads_last(x: torch.Tensor) -> torch.Tensor:
    """[batch, heads, sequence, head] to [batch, sequence, heads * head]."""
    batch, heads, length, head = x.shape
    return x.transpose(1, 2).reshape(batch, length, heads * head)


def ids(*shape: int, limit: int = 64) -> torch.Tensor:
    """Token ids."""
    return torch.randint(0, limit, shape)


def linear(inputs: int, outputs: int, bias: bool = True) -> Any:
    """A linear layer."""
    return torch.nn.Linear(inputs, outputs, bias=bias)
