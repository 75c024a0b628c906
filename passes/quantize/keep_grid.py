"""Which weights keep the grid that they already lie on, whatever a recipe's scheme is."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from bitfold.passes.core.targets import Target
from bitfold.passes.quantize.grid import find_grid, grid_of_some
from bitfold.passes.quantize.rounding import QuantizedWeight
from bitfold.runtime.formats.scheme import QuantScheme, WeightScheme

Lossless = Literal["auto", "always", "only", "off"]
"""Keep grids that take no more bits than the scheme, all, all and quantize nothing else, none."""

NO_GRID = "its weight lies on no grid of 8 bits or fewer"


def kept_grid(
    rows: np.ndarray, scheme: QuantScheme, lossless: Lossless, target: Target, conv: bool = False
) -> QuantizedWeight | str:
    """The weight ``rows`` [N, K] on its own grid, or why it is to be rounded.

    Args:
        rows: as they are quantized: of a convolution, one for each output and tap.
        scheme: what the recipe asks for.
        conv: whether they are a convolution's, whose runs of columns must be whole.
    """
    if lossless == "off":
        return NO_GRID
    weight = scheme.weight
    # Wider grids cost a longer search, and would not be kept.
    most = weight.number.bits if lossless == "auto" else 8
    found: QuantizedWeight | None = None
    for find in (grid_of_some, find_grid):  # a few rows tell most of the time
        found = find(rows, most, conv)
        if found is None:
            return NO_GRID
        if lossless == "auto" and _bits(found.scheme) > _bits(weight):
            grid = f"{found.scheme}, which takes more bits"
            return f"looks like a grid of {grid}: lossless=always keeps it"
    assert found is not None, "returned above"
    return _for_inputs(found, scheme, target)


def _bits(scheme: WeightScheme) -> float:
    """Bits of a weight and its share of scales, whose type is not held against a grid."""
    return replace(scheme, scale="f16").bits_per_weight()


def _for_inputs(found: QuantizedWeight, scheme: QuantScheme, target: Target) -> QuantizedWeight:
    """The same weight in the recipe's shorter groups, where its inputs are better off so.

    An input's groups are the weight's.  One scale a row does for 8 bits, not for fewer; and ORT's
    operators have no input scale for a longer row than a block.
    """
    size = scheme.weight.group
    bits = scheme.act_bits if scheme.act_granularity == "group" else None
    wanted = bits is not None and (bits < 8 or target == "ort")
    return found.in_groups(size) if wanted and 0 < size < found.group_size else found
