"""Round a weight so that its outputs, not its values, stay: GPTQ, then coordinate descent.

The loss of rounding W[N, K] to Q is ``tr((W - Q) H (W - Q)^T)``, with H[K, K] the mean of ``x x^T``
over the inputs that the weight meets: the squared error of its outputs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import linalg

from bitfold.passes.core.parallel import ONE_AT_A_TIME, Engine
from bitfold.passes.quantize.columns import Columns
from bitfold.passes.quantize.descent import descend
from bitfold.passes.quantize.finders import finder
from bitfold.passes.quantize.rounding import QuantizedWeight, grouped_rows, stacked
from bitfold.runtime.formats.scale_types import store_scales
from bitfold.runtime.formats.scheme import WeightScheme

BLOCK = 64
"""Columns whose errors are carried to the later ones at once."""

ROWS = 1536
"""Rows that are rounded at once: each row's codes are its own affair, and all would take memory."""

DAMPING = 0.01
"""Share of the mean of H's diagonal that is added to it: keeps rare inputs from ruling."""


def gptq(
    weight: np.ndarray,
    gram: np.ndarray,
    scheme: WeightScheme,
    ranges: str = "mse",
    size: int = 0,
    sweeps: int = 2,
    engine: Engine = ONE_AT_A_TIME,
) -> QuantizedWeight:
    """Quantize ``weight`` [N, K], knowing ``gram`` [K, K], the mean of ``x x^T`` over its inputs.

    Columns are rounded one after the other, and each one's error is made up for by the columns
    still to come (GPTQ: Frantar et al., arXiv 2210.17323).  A group's range is chosen when its
    first column comes, from what its columns have become by then.  ``sweeps`` rounds of coordinate
    descent follow (:func:`~bitfold.passes.quantize.descent.descend`).

    Args:
        weight: finite.
        gram: symmetric, positive semidefinite, finite.
        ranges: a key of ``FINDERS``, as for rounding to nearest.
        size: columns a group; by default the scheme's.
        sweeps: 0 for GPTQ alone.
        engine: works on :data:`ROWS` rows at a time.
    """
    size = size or scheme.group_size(weight.shape[1])
    damped = damp(gram)
    order = column_order(np.diag(damped), size)
    damped = damped[np.ix_(order, order)]
    weight = np.asarray(weight, np.float32)
    find = finder(scheme, ranges)
    blocks = [weight[start : start + ROWS] for start in range(0, len(weight), ROWS)]
    cover = finder(scheme, "minmax")
    covering = [cover(grouped_rows(rows, size), scheme.number, scheme.symmetric) for rows in blocks]
    # Scales of a type are stored alike in all rows: as those would be that cover every value.
    stored = store_scales(np.concatenate([each.scale for each in covering]), scheme.scale)
    factor, gram32 = inverse_factor(damped).astype(np.float32), damped.astype(np.float32)

    def rounded(rows: np.ndarray) -> QuantizedWeight:
        turned = np.ascontiguousarray(rows.T[order])
        columns = Columns(scheme, turned, gram32, order, order // size, stored)

        def choose(group: int, wanted: np.ndarray) -> None:
            columns.set_range(group, find(wanted.T[:, None], scheme.number, scheme.symmetric))

        round_columns(columns, factor, choose, sweeps)
        return columns.result(size)

    return stacked(list(engine.run(rounded, blocks)))


def round_columns(
    columns: Columns,
    factor: np.ndarray,
    choose: Callable[[int, np.ndarray], None],
    sweeps: int = 2,
) -> None:
    """Round all columns, group by group, and then descend.

    Args:
        columns: of any kind that can round a column and fit its scales.
        factor: that of :func:`inverse_factor`, in the columns' order, float32 [K, K].
        choose: gives a group its range, from its number and what its columns [*, N] have become.
        sweeps: rounds of coordinate descent.
    """
    left = columns.weight.copy()
    for group, run in columns.runs():
        choose(group, left[run])
        for start in range(run.start, run.stop, BLOCK):
            block = slice(start, min(start + BLOCK, run.stop))
            errors = _round_block(columns, left, factor, block)
            left[block.stop :] -= factor[block, block.stop :].T @ errors
    for _ in range(sweeps):
        descend(columns)


def arranged(
    weight: np.ndarray, gram: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The order of the columns; the weight float32 [K, N] and the damped H f64[K, K] in it."""
    damped = damp(gram)
    order = column_order(np.diag(damped), size)
    turned = np.ascontiguousarray(np.asarray(weight, np.float32).T[order])
    return order, turned, damped[np.ix_(order, order)]


def _round_block(
    columns: Columns, left: np.ndarray, factor: np.ndarray, block: slice
) -> np.ndarray:
    """Round the columns of a block; return their errors [block, N] over the factor's diagonal."""
    errors = np.empty_like(left[block])
    for place, j in enumerate(range(block.start, block.stop)):
        columns.round_column(j, left[j])
        errors[place] = (left[j] - columns.rounded[j]) / factor[j, j]
        left[j + 1 : block.stop] -= np.outer(factor[j, j + 1 : block.stop], errors[place])
    return errors


def column_order(diagonal: np.ndarray, size: int) -> np.ndarray:
    """The order in which columns are rounded: heavy ones first, whose errors the others take up.

    Groups stay together, since each gets its range when its first column comes: the group with the
    largest total first, and within it the largest entries of H's diagonal first.
    """
    k = len(diagonal)
    group = np.arange(k) // size
    total = np.bincount(group, diagonal)
    return np.lexsort((np.arange(k), -diagonal, group, -total[group]))


def damp(gram: np.ndarray) -> np.ndarray:
    """H with :data:`DAMPING` of the diagonal's mean added to the diagonal, f64[K, K]."""
    h = np.array(gram, np.float64)
    mean = float(np.mean(np.diag(h)))
    h[np.diag_indices_from(h)] += DAMPING * mean if mean > 0 else 1.0
    return h


def inverse_factor(h: np.ndarray) -> np.ndarray:
    """The upper triangular U with ``H^-1 = U^T U``, f64[K, K], of a positive definite H."""
    lower = linalg.cholesky(h[::-1, ::-1], lower=True)
    upper = np.ascontiguousarray(lower[::-1, ::-1])
    factor: np.ndarray = linalg.solve_triangular(upper, np.eye(len(h)), overwrite_b=True)
    return factor
