"""Checks of ``LowBitMatMul``'s input scales for ``kernel_checks``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import onnxruntime as ort
from support.guard_pages import BEHIND, guarded_copy
from support.low_rank_checks import CLOSE, ONE_CODE, worst
from support.lowbit_nodes import Case, matmul_model, matmul_session, session

ROWS = [1, 2, 3, 6, 7, 12, 13, 31]


def cases() -> Iterator[Case]:
    """One block of outputs and several, of whole pairs of tiles and not, beside other options."""
    for seed, (n, k, group) in enumerate(((1, 1, 0), (33, 70, 32), (100, 100, 0), (150, 576, 64))):
        for size in (n, 16, 32, 48, 112):
            if size > n:
                continue
            base = Case(n, k, 4, group, act_group=group, seed=seed, n_group=size)
            yield base
            yield replace(base, bias=True, residual=True, zero_points=True, act_group=0)
            yield replace(base, rank=5, activation="gelu", bits=3)
            yield replace(base, static=True, act_group=0)
            yield replace(base, acts="none", table=True)
            yield replace(base, acts="none", float_table=True)
            yield replace(base, acts="int2", bits=2)
    yield Case(100, 96, 4, 32, act_group=32, n_group=48, splits=(32, 68))
    yield Case(64, 96, 4, 32, act_group=32, n_group=64, activation="swiglu", bias=True, rank=8)


def input_scales() -> Iterator[str]:
    """Every case against the oracle."""
    for case in cases():
        run, inputs = matmul_session(case), case.weights()
        for m in ROWS:
            feeds = case.feeds(m)
            expected = case.expected(feeds["X"], inputs, feeds.get("residual"))
            error = worst(np.concatenate(run.run(None, feeds), 1), expected)
            if error > CLOSE:
                yield f"{case} M={m}: error {error:.3g}"


def input_scales_threads() -> Iterator[str]:
    """The same bits for any number of threads, many small blocks or few large ones.

    NaN and infinity spoil their rows only; a norm is computed before the scales.
    """
    for case in (
        Case(1000, 576, 4, 32, act_group=32, n_group=64, epsilon=1e-2),
        Case(1024, 1536, 4, 64, act_group=64, n_group=512, rank=9, hadamard=64),
        Case(300, 257, 8, acts="none", n_group=300, epsilon=1e-2),
    ):
        runs, inputs = [matmul_session(case, count) for count in (1, 2, 3)], case.weights()
        for m in (1, 7, 100, 300):
            x = case.rows(m)
            x[m // 2, 5] = np.nan
            if m > 1:
                x[0, case.k - 1] = np.inf
            first, *others = [run.run(None, {"X": x})[0] for run in runs]
            if any(other.tobytes() != first.tobytes() for other in others):
                yield f"{case} M={m}: bits depend on the number of threads"
            error = worst(first, case.expected(x, inputs))
            if error > ONE_CODE:
                yield f"{case} M={m}: error {error:.3g}"


def input_scales_guard_pages() -> Iterator[str]:
    """Inputs that end, or begin, at a page that must not be touched."""
    for case in (
        Case(33, 70, 4, 16, act_group=16, n_group=33),
        Case(50, 35, 4, acts="none", n_group=16, epsilon=1e-5),
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


INPUT_SCALES_CHECKS = (input_scales, input_scales_threads, input_scales_guard_pages)
