"""Checks of ``LowBitMatMul`` with float inputs for ``kernel_checks``: what of X is kept."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from support.lowbit_nodes import Case, matmul_session

ROWS = [1, 2, 3, 4, 5, 14]
UNIT = 2.0**-24
"""Half an ulp of float32, relative to the number."""


def cases() -> Iterator[Case]:
    """Groups from the least to whole rows."""
    for seed, (k, group) in enumerate(((333, 16), (576, 32), (640, 128), (576, 0), (2100, 0))):
        yield Case(48, k, 4, group, "none", group, seed=seed)
        yield Case(35, k, 8, group, "none", group, seed=seed, f16=False)
        yield Case(33, k, 6, group, "none", group, seed=seed, table=True)


def inputs_of(case: Case) -> Iterator[tuple[str, np.ndarray]]:
    """Rows of ordinary, widely spread and massive inputs."""
    x = case.rows(max(ROWS))
    rng = np.random.default_rng(case.seed)
    yield "normal", x
    yield "spread", x * np.exp(3 * rng.standard_normal(x.shape, np.float32))
    massive = x.copy()
    massive[:, :: max(case.k // 3, 1)] *= 3000
    yield "massive", massive


def float_inputs() -> Iterator[str]:
    """Errors within the rounding of 24 bits of each group's largest input, and of float32 sums.

    In the root of the mean square they are at most three times those of products that are added one
    after the other in float32, the reference's way.
    """
    for case in cases():
        run, inputs = matmul_session(case), case.weights()
        weight = case.expected(np.eye(case.k, dtype=np.float32), inputs).T  # [N, K]
        starts = np.arange(0, case.k, case.group_size)
        for name, x in inputs_of(case):
            wide = x.astype(np.float64)
            exact = wide @ weight.T
            reach = np.maximum.reduceat(np.abs(wide), starts, axis=1)
            spread = np.add.reduceat(np.abs(weight), starts, axis=1)
            limit = 2 * UNIT * (reach @ spread.T) + 8 * UNIT * (np.abs(wide) @ np.abs(weight).T)
            products = x[:, None] * weight.astype(np.float32)
            in_turn = np.add.accumulate(products, axis=2, dtype=np.float32)[:, :, -1]
            for m in ROWS:
                error = run.run(None, {"X": x[:m]})[0] - exact[:m]
                worst = np.max(np.abs(error) / limit[:m])
                if worst > 1:
                    yield f"{case} {name} M={m}: {worst:.3g} of the limit"
            mine, other = (np.sqrt(np.mean(e**2)) for e in (error, in_turn - exact))
            if mine > 3 * other:
                yield f"{case} {name}: error {mine:.3g}, of float32 sums {other:.3g}"


def whole_inputs() -> Iterator[str]:
    """Whole numbers of up to 22 bits and powers of two as scales: not an error at all."""
    rng = np.random.default_rng(7)
    for k, group in ((40, 16), (100, 32), (70, 0)):
        case = Case(33, k, 3, group, "none", group, scales="e8m0")
        run, inputs = matmul_session(case), case.weights()
        x = np.zeros((max(ROWS), k), np.float32)
        for row in x:  # a few inputs, so that float32 holds their sums
            chosen = rng.choice(k, 3, replace=False)
            row[chosen] = rng.integers(-(1 << 18), 1 << 18, 3)
        x[1, 0] = (1 << 22) - 1
        x[1, 1:] = 0
        expected = x.astype(np.float64) @ case.expected(np.eye(k, dtype=np.float32), inputs)
        for m in ROWS:
            if not np.array_equal(run.run(None, {"X": x[:m]})[0], expected[:m]):
                yield f"{case} M={m}: not exact"


FLOAT_INPUT_CHECKS = (float_inputs, whole_inputs)
