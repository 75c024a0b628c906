"""Quantization schemes: how a site's weight and its input are turned into codes and scales."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bitfold.runtime.errors import RecipeError
from bitfold.runtime.formats import Format, format_named


@dataclass(frozen=True)
class WeightScheme:
    """How a weight W[N, K] is quantized.

    Attributes:
        format: name of the number format of the codes.
        group: input channels that share a scale, or 0 for one scale per output channel.
        symmetric: whether zero points are left out.
        scale: type in which scales are stored.
    """

    format: str
    group: int = 0
    symmetric: bool = True
    scale: Literal["f16", "f32"] = "f16"

    def __post_init__(self) -> None:
        format_named(self.format)
        if self.group < 0 or self.group % 16:
            raise RecipeError(
                f"group size {self.group} is not a multiple of 16",
                "use 32, 64 or 128, or 0 for one group per output channel",
            )
        if not self.symmetric and not self.number.linear:
            raise RecipeError(
                f"zero points shift evenly spaced levels, and those of {self.format} are not",
                "leave out zero points with symmetric=true",
            )

    @property
    def number(self) -> Format:
        """The number format itself."""
        return format_named(self.format)

    def group_size(self, k: int) -> int:
        """Input channels a group of a weight with ``k`` of them: at most ``k``."""
        return min(self.group, k) if self.group else k

    def bits_per_weight(self) -> float:
        """Bits a weight takes with its share of the group's scale and zero point."""
        if not self.group:
            return float(self.number.bits)
        overhead = (16 if self.scale == "f16" else 32) + (0 if self.symmetric else 8)
        return self.number.bits + overhead / self.group

    def __str__(self) -> str:
        where = f"g{self.group}" if self.group else "per channel"
        return f"{self.format} {where} {'symmetric' if self.symmetric else 'asymmetric'}"


@dataclass(frozen=True)
class QuantScheme:
    """How a site is quantized: its weight, and its input on the fly.

    Attributes:
        weight: the weight's scheme.
        acts: ``int8`` for inputs quantized at run time, ``none`` for float ones.
        act_granularity: one activation scale a row (``token``) or a row and weight group.
    """

    weight: WeightScheme
    acts: Literal["int8", "none"] = "int8"
    act_granularity: Literal["group", "token"] = "group"

    def act_group_size(self, k: int) -> int:
        """Inputs that share an activation scale, for a site with ``k`` inputs."""
        return self.weight.group_size(k) if self.act_granularity == "group" else k

    def __str__(self) -> str:
        inputs = (
            "float inputs" if self.acts == "none" else f"{self.acts} per {self.act_granularity}"
        )
        return f"{self.weight}, {inputs}"
