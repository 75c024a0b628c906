"""Find the grid that a weight already lies on: weight math, with no graph in sight.

Training with quantization leaves weights that are whole steps of a unit: binary (BinaryConnect,
arXiv 1511.00363), ternary (BitNet b1.58, arXiv 2402.17764), or integers of a few bits.  Rounding
such a weight in another unit would lose what the training has made good.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from bitfold.passes.quantize.rounding import ELEMENTS_AT_ONCE, QuantizedWeight, grouped_rows
from bitfold.passes.quantize.steps import Steps, find_steps, may_have_unit
from bitfold.runtime.formats import FORMATS, Format
from bitfold.runtime.formats.scale_types import DTYPES, ScaleType
from bitfold.runtime.formats.scheme import WeightScheme

CANDIDATES = (
    *("binary", "ternary", "int2", "odd2", "pot3", "int3", "odd3", "fp4", "int4", "odd4", "pot4"),
    *("int5", "fp6_e2m3", "int6", "int7", "int8"),
)
"""Formats that a grid is written in, the first that has its steps: those of fewer bits first."""

SAMPLED_ROWS = 8
"""Rows that are looked at before all are: most weights lie on no grid."""


def find_grid(
    weight: np.ndarray, most_bits: int = 8, whole_runs: bool = False
) -> QuantizedWeight | None:
    """The codes and scales that give ``weight`` [N, K] back exactly, or None where there are none.

    1. A unit belongs to a whole row, or to each run of columns: the longest runs that do.
    2. The format is the first of :data:`CANDIDATES` that has every step; integers may take a zero
       point for each run, where 0 still has a code.
    3. Scales are float16 where these give the same bits, else bfloat16, else float32.
    4. A grid that takes as many bits as the floats is none: each value of a row of one, say.

    The sign of a zero is not kept: 0 and -0 are the same number.

    Args:
        weight: float32; must be finite.
        most_bits: of a code.
        whole_runs: whether the last run of a row must be as long as the others.
    """
    sample = grid_of_some(weight, most_bits, whole_runs)
    if sample is None:
        return None
    formats, most = _formats(most_bits)
    for size in runs_of(weight.shape[1], whole_runs):
        if size > sample.group_size:
            continue
        found = _all_steps(weight, size, most)
        written = None if found is None else _written(weight, found, formats, size)
        if written is not None:
            return written if written.nbytes < 4 * weight.size else None
    return None


def grid_of_some(
    weight: np.ndarray, most_bits: int = 8, whole_runs: bool = False
) -> QuantizedWeight | None:
    """What :func:`find_grid` finds of a few of the rows: all rows take no fewer bits or scales."""
    n, k = weight.shape
    formats, most = _formats(most_bits)
    places = np.linspace(0, n - 1, min(n, SAMPLED_ROWS)).astype(int)
    sample, runs = np.asarray(weight[places], np.float32), runs_of(k, whole_runs)
    if not all(may_have_unit(row[: runs[-1]], most) for row in sample):
        return None
    for size in runs:
        found = find_steps(grouped_rows(sample, size), most)
        written = None if found is None else _written(sample, found, formats, size)
        if written is not None:
            return written
    return None


def _formats(most_bits: int) -> tuple[list[Format], int]:
    """The candidates of so many bits, and the most steps that the largest magnitude may have."""
    formats = [FORMATS[name] for name in CANDIDATES if FORMATS[name].bits <= most_bits]
    # A zero point may put all levels on one side of 0.
    return formats, max(max(len(each.levels) - 1, int(each.highest)) for each in formats)


def runs_of(k: int, whole: bool = False) -> list[int]:
    """Lengths of runs of ``k`` columns that may share a unit, longest first.

    All columns; then the multiples of 16 that divide ``k`` or, unless runs must be ``whole``, are
    powers of two.
    """
    shorter = range(16, k, 16)
    fitting = [run for run in shorter if k % run == 0 or (run & (run - 1) == 0 and not whole)]
    return [k, *reversed(fitting)]


def _blocks(weight: np.ndarray, size: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Runs of rows, few enough to stay in the cache, and their groups [rows, G, size]."""
    rows = max(1, ELEMENTS_AT_ONCE // weight.shape[1])
    for start in range(0, len(weight), rows):
        part = slice(start, start + rows)
        yield part, grouped_rows(np.asarray(weight[part], np.float32), size)


def _all_steps(weight: np.ndarray, size: int, most: int) -> Steps | None:
    """The steps of every row."""
    parts = []
    for _, groups in _blocks(weight, size):
        found = find_steps(groups, most)
        if found is None:
            return None
        parts.append(found)
    return Steps(
        np.concatenate([part.unit for part in parts]),
        np.concatenate([part.middle for part in parts]),
        np.concatenate([part.step for part in parts]),
    )


def _written(
    weight: np.ndarray, found: Steps, formats: Sequence[Format], size: int
) -> QuantizedWeight | None:
    """Codes, scales and zero points in the first format that has every step; None if none has."""
    low, high = np.minimum(found.step.min(-1), 0), np.maximum(found.step.max(-1), 0)
    present = np.unique(found.step[found.unit > 0])
    for number in formats:
        turned, zeros = np.zeros(low.shape, bool), None
        fits = bool(np.isin(present, number.levels).all())
        if not fits and number.name.startswith("int"):
            # One level more lies below zero than above: a negative scale turns a group round.
            turned = high > number.highest
            fits = bool(np.where(turned, high <= -number.lowest, low >= number.lowest).all())
            fits = fits and bool((-low <= number.highest)[turned].all())
            if not fits and (high - low).max() < len(number.levels):
                turned[:], zeros, fits = False, number.lowest - low, True
        if fits:
            return _encoded(weight, found, number, size, turned, zeros)
    return None


def _encoded(
    weight: np.ndarray,
    found: Steps,
    number: Format,
    size: int,
    turned: np.ndarray,
    zeros: np.ndarray | None,
) -> QuantizedWeight:
    """The weight in a format that has every step, in scales of the narrowest type that serves.

    Args:
        turned: groups [N, G] whose steps change sign, and their scale with them.
        zeros: zero points [N, G].
    """
    (n, k), sign = weight.shape, np.where(turned, np.float32(-1), np.float32(1))
    codes = np.empty((n, k), np.uint8)
    for rows, _ in _blocks(weight, size):
        levels = found.step[rows] * sign[rows, :, None]
        if zeros is not None:
            levels += zeros[rows, :, None]
        codes[rows] = number.encode(levels).reshape(len(levels), -1)[:, :k]
    group = 0 if size == k else size
    points = None if zeros is None else zeros.astype(np.int8)
    narrow: tuple[ScaleType, ...] = ("f16", "bf16")
    for kind in narrow:
        with np.errstate(over="ignore"):
            scales = (sign * found.middle).astype(DTYPES[kind])
        scheme = WeightScheme(number.name, group, zeros is None, kind)
        written = QuantizedWeight(scheme, codes, scales, points, size)
        if _gives(written, weight):
            return written
    scheme = WeightScheme(number.name, group, zeros is None, "f32")
    return QuantizedWeight(scheme, codes, sign * found.unit, points, size)


def _gives(written: QuantizedWeight, weight: np.ndarray) -> bool:
    """Whether a quantized weight is equal to ``weight``."""
    if not np.isfinite(written.scales.astype(np.float32)).all():
        return False
    for rows, _ in _blocks(weight, written.group_size):
        if not np.array_equal(written.rows(rows).dequantize(), weight[rows]):
            return False
    return True
