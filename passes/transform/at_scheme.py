"""What passes that change spaces for the sake of a quantization scheme have in common."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from bitfold.passes.analysis.spaces.space import Space
from bitfold.passes.core.base import Pass
from bitfold.runtime.formats import format_named
from bitfold.runtime.formats.scheme import Acts, QuantScheme, WeightScheme, takes_zero_points


@dataclass(frozen=True)
class AtScheme(Pass):
    """Base of passes that estimate errors at a scheme.

    Attributes:
        weights, group, symmetric, acts, act_granularity: how sites will be quantized, as in
            ``quantize``.
    """

    weights: str = "int4"
    group: int = 32
    symmetric: bool = False
    acts: Acts = "int8"
    act_granularity: Literal["group", "token"] = "group"

    def __post_init__(self) -> None:
        self.scheme()

    def scheme(self) -> QuantScheme:
        """How readers will be quantized."""
        symmetric = self.symmetric or not takes_zero_points(format_named(self.weights))
        weight = WeightScheme(self.weights, self.group, symmetric)
        return QuantScheme(weight, self.acts, self.act_granularity)


@dataclass(frozen=True)
class SchemePass(AtScheme):
    """Base of those that change spaces.

    Attributes:
        spaces: globs of spaces (by their first writer's name) to change.
        copy_limit: elements; a weight that others read in other coordinates is copied up to here.
    """

    spaces: tuple[str, ...] = ("*",)
    copy_limit: int = 4096

    def wants(self, space: Space) -> bool:
        """Whether the recipe names the space."""
        return any(fnmatchcase(space.name, glob) for glob in self.spaces)
