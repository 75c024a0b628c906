"""Number formats: a new one is a file here and a line in ``FORMATS``, or in ``FAMILIES``."""

from __future__ import annotations

from bitfold.runtime.errors import RecipeError
from bitfold.runtime.formats.binary import BINARY
from bitfold.runtime.formats.format import Format
from bitfold.runtime.formats.gaussian import gaussian, odd
from bitfold.runtime.formats.integer import integer
from bitfold.runtime.formats.minifloat import FP4, FP6_E2M3, FP6_E3M2, FP8_E4M3, FP8_E5M2
from bitfold.runtime.formats.nf4 import NF4
from bitfold.runtime.formats.power_exponent import power_exponent
from bitfold.runtime.formats.powers import APOT5, power_of_two
from bitfold.runtime.formats.quinary import QUINARY
from bitfold.runtime.formats.ternary import TERNARY

FORMATS: dict[str, Format] = {
    each.name: each
    for each in (
        integer(8),
        integer(7),
        integer(6),
        integer(5),
        integer(4),
        integer(3),
        integer(2),
        TERNARY,
        BINARY,
        NF4,
        FP4,
        FP6_E2M3,
        FP6_E3M2,
        FP8_E4M3,
        FP8_E5M2,
        power_of_two(3),
        power_of_two(4),
        power_of_two(5),
        APOT5,
        *(gaussian(bits) for bits in (2, 3, 4, 5)),
        *(odd(bits) for bits in (2, 3, 4)),
        QUINARY,
    )
}

FAMILIES: dict[str, Format] = {
    **{f"power{bits}": power_exponent(bits) for bits in (2, 3, 4, 5)},
    # Levels that are learned may be any; those of a normal distribution are like them.
    **{f"learned{bits}": gaussian(bits) for bits in (2, 3, 4)},
}
"""Names of formats whose levels are found for each weight, with a member that speaks for all."""


def format_named(name: str) -> Format:
    """The format called ``name``; of a family, the member that speaks for it.

    Raises:
        RecipeError: there is no such format.
    """
    known = FORMATS | FAMILIES
    if name not in known:
        raise RecipeError(f"no number format {name!r}", f"the formats are {', '.join(known)}")
    return known[name]


__all__ = ["FAMILIES", "FORMATS", "Format", "format_named"]
