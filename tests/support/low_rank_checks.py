"""Checks of ``LowBitMatMul``'s low-rank branch for ``kernel_checks``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import onnxruntime as ort
from support.guard_pages import BEHIND, guarded_copy
from support.lowbit_nodes import Case, matmul_model, matmul_session, session

CLOSE = 1e-5
"""Error relative to the largest output: sums of float products."""

ONE_CODE = 1e-2
"""The same behind a prologue, whose rows may round to another code."""

RANKS = (1, 2, 3, 4, 7, 8, 9, 16, 32, 65)
ROWS = [1, 2, 3, 4, 5, 6, 7, 12, 13, 31, 60]


def cases() -> Iterator[Case]:
    """Every rank, over shapes, kinds of weights and everything that stands beside the branch."""
    for seed, rank in enumerate(RANKS):
        for n, k, group in ((1, 1, 0), (33, 70, 32), (40, 100, 0), (64, 576, 64), (50, 257, 16)):
            base = Case(n, k, 4, group, act_group=group, seed=seed, rank=rank, half=seed % 2 == 0)
            yield base
            yield replace(base, bias=True, residual=True, zero_points=True, half=seed % 2 == 1)
        wide = Case(52, 96, 3, 32, act_group=32, rank=rank, bias=True, half=seed % 2 == 1)
        yield replace(wide, activation="swiglu", zero_points=True)
        yield replace(wide, activation="gelu", residual=True)
        yield replace(wide, splits=(16, 36))
        yield replace(wide, acts="none")
        yield replace(wide, acts="none", float_table=True, bits=4)
        yield replace(wide, table=True, bits=6)
        yield replace(wide, bits=2, acts="int2")
        yield replace(wide, bits=1, acts="int1", activation="relu")


def worst(y: np.ndarray, expected: np.ndarray) -> float:
    """Largest error relative to the largest output; infinite where NaN are not the same."""
    if y.shape != expected.shape or (np.isnan(y) != np.isnan(expected)).any():
        return np.inf
    return float(
        np.nanmax(np.abs(y - expected), initial=0) / np.nanmax(np.abs(expected), initial=1)
    )


def low_rank() -> Iterator[str]:
    """Every rank beside every other option, against the oracle."""
    for case in cases():
        run, inputs = matmul_session(case), case.weights()
        for m in ROWS:
            feeds = case.feeds(m)
            expected = case.expected(feeds["X"], inputs, feeds.get("residual"))
            error = worst(np.concatenate(run.run(None, feeds), 1), expected)
            if error > CLOSE:
                yield f"{case} M={m}: error {error:.3g}"


def low_rank_prologue() -> Iterator[str]:
    """The branch reads what the prologue made, before it is quantized."""
    plain = Case(40, 96, 4, 32, act_group=32, rank=24)
    for case in (
        replace(plain, epsilon=1e-2, residual=True),
        replace(plain, hadamard=48, acts="none"),
        replace(plain, epsilon=1e-5, hadamard=32, activation="swiglu"),
        replace(plain, static=True, act_group=0),
    ):
        run, inputs = matmul_session(case), case.weights()
        for m in ROWS:
            feeds = case.feeds(m)
            expected = case.expected(feeds["X"], inputs, feeds.get("residual"))
            error = worst(run.run(None, feeds)[0], expected)
            if error > ONE_CODE:
                yield f"{case} M={m}: error {error:.3g}"


def low_rank_threads() -> Iterator[str]:
    """The same bits for any number of threads; NaN and infinity spoil their rows only."""
    for case in (
        Case(1000, 576, 4, 32, act_group=32, rank=32),
        Case(64, 4608, 4, 64, act_group=64, rank=300, half=False),
        Case(256, 1536, 4, 64, epsilon=1e-5, rank=65, activation="swiglu"),
        Case(300, 257, 8, acts="none", rank=33),
    ):
        runs = [matmul_session(case, count) for count in (1, 2, 3)]
        for m in (1, 7, 100, 300):
            x = case.rows(m)
            x[m // 2, 5] = np.nan
            if m > 1:
                x[0, case.k - 1] = np.inf
            first, *others = [run.run(None, {"X": x})[0] for run in runs]
            if any(other.tobytes() != first.tobytes() for other in others):
                yield f"{case} M={m}: bits depend on the number of threads"
            lost = ~np.isfinite(x).all(axis=1)
            if not np.isnan(first[lost]).all() or not np.isfinite(first[~lost]).all():
                yield f"{case} M={m}: NaN is not where it belongs"


def low_rank_guard_pages() -> Iterator[str]:
    """Inputs that end, or begin, at a page that must not be touched."""
    for case in (
        Case(33, 70, 4, 16, act_group=16, rank=1),
        Case(16, 35, 4, acts="none", rank=9, half=False),
        Case(34, 100, 4, rank=17, epsilon=1e-5, activation="swiglu"),
    ):
        inputs = case.weights()
        run = session(matmul_model(case.attributes(), inputs, constant=False))
        for m in (1, 3, 9):
            x = case.rows(m)
            expected = case.expected(x, inputs)
            for side in BEHIND:
                bound = run.io_binding()
                for name, array in {"X": x, **inputs}.items():
                    held = ort.OrtValue.ortvalue_from_numpy(guarded_copy(array, side))
                    bound.bind_ortvalue_input(name, held)
                y = guarded_copy(np.zeros(expected.shape, np.float32), side)
                bound.bind_ortvalue_output("Y", ort.OrtValue.ortvalue_from_numpy(y))
                run.run_with_iobinding(bound)
                if worst(y, expected) > ONE_CODE:
                    yield f"{case} M={m} {side}"


LOW_RANK_CHECKS = (low_rank, low_rank_prologue, low_rank_threads, low_rank_guard_pages)
