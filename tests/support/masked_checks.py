"""Checks of the kernels of masked weights, for one ISA: every width, many shapes and rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import onnxruntime as ort
from support.guard_pages import BEHIND, guarded_copy
from support.lowbit_nodes import Case, matmul_model, session

CLOSE = 3e-6
"""Error relative to the largest output, or to 1: zero points of zero weights are summed, too."""

ONE_CODE = 1e-2
"""The same behind a norm or a transform with int8 activations: a row may round to another code."""

SHAPES = [(1, 1, 0), (16, 32, 32), (17, 33, 16), (33, 70, 32), (50, 200, 48), (20, 333, 0)]
SHAPES += [(96, 576, 64), (40, 900, 128), (24, 1600, 160)]
"""N, K, group; the last are several segments of a panel."""

KEPT = [0.5, 0.25, 0.0, 1.0, 0.03]
ROWS = [1, 2, 5, 13, 31]


def cases(bits: int) -> Iterator[Case]:
    """Shapes, options and shares of weights that are kept, for one width of codes."""
    for seed, (n, k, group) in enumerate(SHAPES):
        kept = KEPT[(seed + bits) % len(KEPT)]
        base = Case(n, k, bits, group, act_group=group, seed=seed, kept=kept)
        # Zero points that are levels themselves: a weight that is not kept is level - zero.
        asymmetric = replace(base, zero_points=True, zero_range=(1 << bits - 1) - 1)
        yield base
        yield replace(asymmetric, f16=False, act_group=0, bias=True)
        yield replace(base, table=True, zero_points=seed % 2 == 0, zero_range=90, residual=True)
        yield replace(base, acts="none", table=seed % 3 == 0)
        small = min(asymmetric.zero_range, 3)
        yield replace(asymmetric, acts="none", scales="bf16", zero_range=small)
        yield replace(asymmetric, n=2 * n, activation="swiglu")
        yield replace(base, acts="none", float_table=True, activation="gelu")
    yield Case(37, 128, bits, 32, acts="int2", kept=0.5)
    yield Case(37, 96, bits, acts="int1", kept=0.5)


def worst(y: np.ndarray, expected: np.ndarray) -> float:
    """Largest error relative to the largest output, or 1; infinite where NaN are not the same."""
    if y.shape != expected.shape or (np.isnan(y) != np.isnan(expected)).any():
        return np.inf
    return float(
        np.nanmax(np.abs(y - expected), initial=0) / np.nanmax(np.abs(expected), initial=1)
    )


def every_format() -> Iterator[str]:
    """Against the oracle, with the same bits for one thread and three."""
    for bits in range(1, 9):
        for case in cases(bits):
            inputs = case.weights()
            model = matmul_model(case.attributes(), inputs, residual=case.residual)
            runs = [session(model, count) for count in (1, 3)]
            for m in ROWS:
                feeds = case.feeds(m)
                if m > 2:
                    feeds["X"][1, -1] = np.nan
                expected = case.expected(feeds["X"], inputs, feeds.get("residual"))
                y, other = (run.run(None, feeds)[0] for run in runs)
                error = worst(y, expected)
                if not error <= CLOSE:
                    yield f"{case} M={m}: error {error:.3g}"
                if y.tobytes() != other.tobytes():
                    yield f"{case} M={m}: bits depend on the number of threads"


def like_dense() -> Iterator[str]:
    """The outputs of a dense weight that has the same zeros."""
    for bits, k, group in ((8, 700, 32), (4, 512, 128), (3, 96, 16)):
        case = Case(80, k, bits, group, act_group=group, kept=0.4)
        dense = replace(case, kept=None)
        codes = np.random.default_rng(bits).integers(0, 1 << bits, (case.n, k)).astype(np.uint8)
        codes[~case.kept_weights(codes.shape)] = 1 << bits - 1
        inputs = {"masked": case.packed(codes), "dense": dense.packed(codes)}
        for m in (1, 4, 20):
            x = case.rows(m)
            y = [
                session(
                    matmul_model(each.attributes(), {**each.weights(), "packed": inputs[name]})
                ).run(None, {"X": x})[0]
                for each, name in ((case, "masked"), (dense, "dense"))
            ]
            if not worst(y[0], y[1].astype(np.float64)) <= CLOSE:
                yield f"{case} M={m}: {worst(y[0], y[1]):.3g}"


def beside_all() -> Iterator[str]:
    """Together with the prologue, skipped columns, input scales and the low-rank branch."""
    both = {"rank": 9, "n_group": 48, "keep": 0.6}
    each: list[dict[str, Any]] = [{name: value} for name, value in both.items()]
    for bits in range(1, 9):
        plain = Case(100, 288, bits, 32, act_group=32, seed=bits, kept=KEPT[bits % 2])
        asymmetric = replace(plain, zero_points=True, zero_range=(1 << bits - 1) - 1)
        cases = [replace(asymmetric, **options, residual=True) for options in (*each, both)]
        cases += [replace(case, acts="none") for case in cases]
        cases += [replace(case, epsilon=1e-3, hadamard=96) for case in cases]
        cases.append(replace(plain, **{**both, "n_group": 100}, activation="swiglu", table=True))
        cases.append(replace(plain, **both, static=True, act_group=0, splits=(16, 84)))
        for case in cases:
            inputs = case.weights()
            model = matmul_model(case.attributes(), inputs, residual=case.residual)
            runs = [session(model, count) for count in (1, 3)]
            exact = case.acts == "none" or case.epsilon is None
            for m in ROWS:
                feeds = case.feeds(m)
                expected = case.expected(feeds["X"], inputs, feeds.get("residual"))
                y, other = (np.concatenate(run.run(None, feeds), axis=1) for run in runs)
                error = worst(y, expected)
                if not error <= (2e-5 if exact else ONE_CODE):
                    yield f"{case} M={m}: error {error:.3g}"
                if y.tobytes() != other.tobytes():
                    yield f"{case} M={m}: bits depend on the number of threads"


def guard_pages() -> Iterator[str]:
    """Inputs and output that end, or begin, at a page that must not be touched."""
    for bits in range(1, 9):
        for case in (
            Case(33, 70, bits, 32, act_group=32, kept=0.5),
            Case(16, 35, bits, table=True, f16=False, kept=1.0),
            Case(34, 100, bits, 48, acts="none", kept=0.2),
            Case(36, 64, bits, 16, act_group=16, activation="swiglu", kept=0.5),
            Case(20, 41, bits, acts="none", float_table=True, kept=0.7),
        ):
            inputs = case.weights()
            run = session(matmul_model(case.attributes(), inputs, constant=False))
            for m in (1, 3, 20):
                x = case.rows(m)
                expected = case.expected(x, inputs)
                for side in BEHIND:
                    y = guarded_copy(np.zeros(expected.shape, np.float32), side)
                    bound = run.io_binding()
                    for name, array in {"X": x, **inputs}.items():
                        value = ort.OrtValue.ortvalue_from_numpy(guarded_copy(array, side))
                        bound.bind_ortvalue_input(name, value)
                    bound.bind_ortvalue_output("Y", ort.OrtValue.ortvalue_from_numpy(y))
                    run.run_with_iobinding(bound)
                    error = worst(y, expected)
                    if not error <= CLOSE:
                        yield f"{case} M={m} {side}: error {error:.3g}"


CHECKS: dict[str, Callable[[], Iterator[str]]] = {
    check.__name__: check for check in (every_format, like_dense, beside_all, guard_pages)
}
