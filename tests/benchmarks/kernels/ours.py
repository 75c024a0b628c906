"""``LowBitMatMul`` on a random weight of any format."""

from __future__ import annotations

from functools import cache

import numpy as np
from support.lowbit_nodes import Case, matmul_model

from bitfold.runtime.formats import Format
from bitfold.runtime.layouts.tiles import pack_codes, tile_groups

from .subject import Subject

TOLERANCE = 3e-6


def lowbit_matmul(
    number: Format, group: int, k: int, n: int, checked: np.ndarray, acts: str = "int8"
) -> Subject:
    """Activations with a scale for each group of the weight's, f16 scales, no zero points.

    Formats whose levels are no integers have float activations.

    Args:
        number: the weight's format.
        group: input channels that share a scale; K for one scale a row.
        checked: all rows of X whose outputs will be asked for: the oracle is slow to start.
    """
    rng = np.random.default_rng(0)
    levels = np.asarray(number.levels, np.float32)
    codes = number.encode(levels[rng.integers(0, len(levels), (n, k), np.uint8)])
    scales = rng.uniform(0.005, 0.02, (n, -(-k // group))).astype(np.float16)
    inputs = {"packed": pack_codes(codes, number.bits), "scales": tile_groups(scales)}
    table = number.table()
    if table is not None:
        inputs["table"] = table
    acts = acts if number.integral else "none"
    case = Case(n, k, number.bits, group, acts, act_group=group, table=table is not None)

    @cache
    def answers() -> dict[bytes, np.ndarray]:
        rows = case.expected(checked, inputs)
        return {row.tobytes(): y for row, y in zip(checked, rows, strict=True)}

    def expected(x: np.ndarray) -> np.ndarray:
        return np.stack([answers()[row.tobytes()] for row in x])

    size = sum(array.nbytes for array in inputs.values())
    model = matmul_model(case.attributes(), inputs)
    name = number.name if acts in ("int8", "none") else f"{number.name} x {acts}"
    label = "row" if group == k else f"g{group}"
    return Subject(f"{name} {label}", model, n * k, size, expected, TOLERANCE)
