"""A weight's own scheme, noted on the weight for ``quantize`` to find."""

from __future__ import annotations

from typing import get_args

import onnx_ir as ir

from bitfold.runtime.errors import RecipeError
from bitfold.runtime.formats.scale_types import ScaleType
from bitfold.runtime.formats.scheme import WeightScheme

KEY = "bitfold.scheme"
"""Metadata of an initializer: format, group, symmetric or asymmetric, and type of the scales."""

SYMMETRY = {"symmetric": True, "asymmetric": False}


def plan(source: ir.Value, scheme: WeightScheme) -> None:
    """Note that the weight ``source`` is to be quantized by ``scheme``."""
    symmetry = next(word for word, value in SYMMETRY.items() if value == scheme.symmetric)
    source.metadata_props[KEY] = f"{scheme.format} {scheme.group} {symmetry} {scheme.scale}"


def forget(source: ir.Value) -> None:
    """Drop what is noted on a weight."""
    source.metadata_props.pop(KEY, None)


def planned(source: ir.Value) -> WeightScheme | None:
    """The scheme that is noted on a weight; None where there is none.

    Raises:
        RecipeError: the note says no scheme.
    """
    text = source.metadata_props.get(KEY)
    if text is None:
        return None
    match text.split():
        case [name, group, symmetry, scale] if (
            group.isdecimal() and symmetry in SYMMETRY and scale in get_args(ScaleType)
        ):
            return WeightScheme(name, int(group), SYMMETRY[symmetry], scale)  # type: ignore[arg-type]
    raise RecipeError(
        f"weight {source.name!r} has {KEY} {text!r}; expected a format, a group size, symmetric or "
        "asymmetric, and a type of scales",
        "leave it out, or write it as 'int4 64 symmetric e4m3'",
    )
