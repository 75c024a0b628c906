"""Quantization schemes: how a site's weight and its input are turned into codes and scales."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bitfold.runtime.errors import RecipeError, UnsupportedError
from bitfold.runtime.formats import Format, format_named
from bitfold.runtime.formats.scale_types import DTYPES, ScaleType

Acts = Literal["int8", "int4", "int3", "int2", "int1", "none"]
"""What inputs are rounded to at run time: integers, or signs times a scale at one bit."""


def takes_zero_points(number: Format) -> bool:
    """Whether zero points buy anything: uneven levels, and fewer than codes, lie about 0.

    At 8 bits they buy next to nothing.
    """
    return number.linear and len(number.levels) == 1 << number.bits and number.bits < 8


@dataclass(frozen=True)
class WeightScheme:
    """How a weight W[N, K] is quantized.

    Attributes:
        format: name of the number format of the codes.
        group: input channels that share a scale, or 0 for one scale per output channel.
        symmetric: whether zero points are left out.
        scale: type in which scales are stored.
        member: of a family of formats, the one that the weight takes; by default the family's own.
    """

    format: str
    group: int = 0
    symmetric: bool = True
    scale: ScaleType = "f16"
    member: Format | None = None

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
        return self.member or format_named(self.format)

    def group_size(self, k: int) -> int:
        """Input channels a group of a weight with ``k`` of them: at most ``k``."""
        return min(self.group, k) if self.group else k

    @property
    def scale_nbytes(self) -> int:
        """Bytes of a scale."""
        return DTYPES[self.scale].itemsize

    def bits_per_weight(self) -> float:
        """Bits a weight takes with its share of the group's scale and zero point."""
        if not self.group:
            return float(self.number.bits)
        overhead = 8 * self.scale_nbytes + (0 if self.symmetric else 8)
        return self.number.bits + overhead / self.group

    def __str__(self) -> str:
        where = f"g{self.group}" if self.group else "per channel"
        scales = f" {self.scale} scales" if self.scale in ("bf16", "e8m0", "e4m3") else ""
        name = self.member.name if self.member else self.format
        return f"{name} {where} {'symmetric' if self.symmetric else 'asymmetric'}{scales}"


@dataclass(frozen=True)
class QuantScheme:
    """How a site is quantized: its weight, and its input on the fly.

    Attributes:
        weight: the weight's scheme.
        acts: ``int8`` to ``int1`` for inputs quantized at run time, ``none`` for float ones.
        act_granularity: one activation scale a row (``token``) or a row and weight group.

    Raises:
        UnsupportedError: int8 inputs beside levels that are no integers of 8 bits.
    """

    weight: WeightScheme
    acts: Acts = "int8"
    act_granularity: Literal["group", "token"] = "group"

    def __post_init__(self) -> None:
        if self.acts != "none" and not self.weight.number.integral:
            raise UnsupportedError(
                f"{self.acts} inputs multiply integers, and the levels of {self.weight.format} "
                "are none that fit in 8 bits",
                "keep inputs float with acts=none, or take int8, fp6_e2m3, fp4 or pot4 weights",
            )

    @property
    def act_bits(self) -> int | None:
        """Bits of a quantized input; None where inputs stay float."""
        return None if self.acts == "none" else int(self.acts.removeprefix("int"))

    def act_group_size(self, k: int) -> int:
        """Inputs that share an activation scale, for a site with ``k`` inputs."""
        return self.weight.group_size(k) if self.act_granularity == "group" else k

    def __str__(self) -> str:
        inputs = (
            "float inputs" if self.acts == "none" else f"{self.acts} per {self.act_granularity}"
        )
        return f"{self.weight}, {inputs}"
