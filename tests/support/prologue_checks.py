"""Checks of ``LowBitMatMul``'s prologue for ``kernel_checks``: norm, Hadamard, given scales."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import onnxruntime as ort
from support.guard_pages import BEHIND, guarded_copy
from support.lowbit_nodes import Case, matmul_model, matmul_session, session

CLOSE = 2e-5
"""Error relative to the largest output with float activations."""

ONE_CODE = 1e-2
"""The same with int8 ones: a row that differs in its last bit may round to another code."""

PROLOGUES: list[dict[str, float | int]] = [
    {"epsilon": 1e-2},
    {"hadamard": 0},
    {"epsilon": 1e-5, "hadamard": 0},
]
"""Hadamard 0 stands for a size that fits K."""

SHAPES = [(33, 64, 32, 64), (20, 70, 0, 2), (24, 576, 64, 576), (17, 24, 0, 12), (40, 96, 48, 32)]
SHAPES += [(16, 1536, 64, 1536), (50, 256, 0, 256), (16, 1, 0, 1)]
"""N, K, group and Hadamard size."""

ROWS = [1, 2, 3, 6, 7, 13, 31]


def cases() -> Iterator[Case]:
    """Every shape with every prologue, int8 and float, own scales and a given one."""
    for seed, (n, k, group, size) in enumerate(SHAPES):
        for prologue in PROLOGUES:
            epsilon = prologue.get("epsilon")
            chosen = size if "hadamard" in prologue else 0
            base = Case(
                n, k, 4, group, act_group=group, seed=seed, epsilon=epsilon, hadamard=chosen
            )
            yield base
            yield replace(base, acts="none", zero_points=True)
            yield replace(base, act_group=0, bias=True, residual=True)
            yield replace(base, act_group=0, static=True)
        yield Case(n, k, 4, group, seed=seed, static=True)
        # Activations of few bits, which planes multiply where K and the groups are whole chunks.
        for bits, acts in ((1, "int1"), (2, "int2"), (4, "int3")):
            yield Case(n, k, bits, group, acts, epsilon=1e-2, hadamard=size, seed=seed)


def worst(y: np.ndarray, expected: np.ndarray) -> float:
    """Largest error relative to the largest output; infinite where NaN are not the same."""
    if y.shape != expected.shape or (np.isnan(y) != np.isnan(expected)).any():
        return np.inf
    return float(
        np.nanmax(np.abs(y - expected), initial=0) / np.nanmax(np.abs(expected), initial=1e-3)
    )


def prologues() -> Iterator[str]:
    """Random rows, and rows for which all of the prologue is exact, against the oracle."""
    for case in cases():
        run, inputs = matmul_session(case), case.weights()
        # Codes of few bits are so far apart that one more or less says nothing.
        for m in ROWS if case.acts in ("int8", "none") else ():
            feeds = case.feeds(m)
            expected = case.expected(feeds["X"], inputs, feeds.get("residual"))
            error = worst(run.run(None, feeds)[0], expected)
            if error > (CLOSE if case.acts == "none" else ONE_CODE):
                yield f"{case} M={m}: error {error:.3g}"
        if case.epsilon and case.epsilon < 1e-3 and case.k > 1:
            continue
        exact = case if case.epsilon is None else replace(case, epsilon=0.0)
        run, inputs = matmul_session(exact), exact.weights()
        for m in ROWS:
            feeds = exact.feeds(m)
            signs = np.sign(feeds["X"]) + (feeds["X"] == 0)
            # A norm of 4; else integers of many sizes.
            whole = np.float32(4) * signs if case.epsilon is not None else np.rint(3 * feeds["X"])
            feeds["X"] = whole.astype(np.float32)
            expected = exact.expected(feeds["X"], inputs, feeds.get("residual"))
            error = worst(run.run(None, feeds)[0], expected)
            if error > 3e-6:
                yield f"{exact} M={m}, exact rows: error {error:.3g}"


def prologue_threads() -> Iterator[str]:
    """The same bits for any number of threads; NaN and infinity spoil their rows only."""
    for case in (
        Case(300, 1536, 4, 64, act_group=64, epsilon=1e-5, hadamard=1536),
        Case(300, 576, 4, 32, acts="none", hadamard=36),
        Case(300, 577, 4, epsilon=1e-5),
        Case(300, 576, 4, 32, static=True),
    ):
        runs = [matmul_session(case, count) for count in (1, 2, 3)]
        for m in (1, 7, 300):
            x = case.rows(m)
            x[m // 2, 5] = np.nan
            if m > 1:
                x[0, case.k - 1], x[1] = np.inf, 0
            first, *others = [run.run(None, {"X": x})[0] for run in runs]
            if any(other.tobytes() != first.tobytes() for other in others):
                yield f"{case} M={m}: bits depend on the number of threads"
            lost = ~np.isfinite(x).all(axis=1)
            if not np.isnan(first[lost]).all() or not np.isfinite(first[~lost]).all():
                yield f"{case} M={m}: NaN is not where it belongs"


def prologue_guard_pages() -> Iterator[str]:
    """Inputs that end, or begin, at a page that must not be touched."""
    for case in (
        Case(33, 72, 4, 16, act_group=16, epsilon=1e-5, hadamard=72),
        Case(16, 35, 4, acts="none", epsilon=1e-5),
        Case(34, 100, 4, hadamard=20, static=True),
    ):
        inputs = case.weights()
        run = session(matmul_model(case.attributes(), inputs, constant=False))
        fed = {name: array for name, array in inputs.items() if name != "hadamard"}
        for m in (1, 3, 9):
            x = case.rows(m)
            expected = case.expected(x, inputs)
            for side in BEHIND:
                bound = run.io_binding()
                for name, array in {"X": x, **fed}.items():
                    held = ort.OrtValue.ortvalue_from_numpy(guarded_copy(array, side))
                    bound.bind_ortvalue_input(name, held)
                y = guarded_copy(np.zeros(expected.shape, np.float32), side)
                bound.bind_ortvalue_output("Y", ort.OrtValue.ortvalue_from_numpy(y))
                run.run_with_iobinding(bound)
                if worst(y, expected) > ONE_CODE:
                    yield f"{case} M={m} {side}"


PROLOGUE_CHECKS = (prologues, prologue_threads, prologue_guard_pages)
