"""Checks of skipped columns in ``LowBitMatMul``, for one ISA."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import onnxruntime as ort
from support.guard_pages import BEHIND, guarded_copy
from support.lowbit_nodes import Case, matmul_model, session
from support.masked_checks import CLOSE, worst

SHAPES = [(1, 1, 0), (17, 33, 16), (33, 70, 32), (50, 200, 48), (20, 333, 0), (70, 1600, 32)]
SHAPES += [(40, 900, 128)]
KEEP = [0.5, 0.25, 0.01, 1.0]
ROWS = [1, 2, 7, 14]


def cases() -> Iterator[Case]:
    """Every width and shape, with other options in turn."""
    for bits in range(1, 9):
        for seed, (n, k, group) in enumerate(SHAPES):
            keep = KEEP[(seed + bits) % len(KEEP)]
            base = Case(n, k, bits, group, act_group=group, seed=seed, keep=keep)
            yield base
            yield replace(base, zero_points=True, act_group=0, f16=False, bias=True)
            yield replace(base, table=True, n=2 * n, activation="swiglu")
            yield replace(base, acts="none", residual=True)
    plain = Case(48, 200, 4, keep=0.3)
    yield replace(plain, static=True)
    yield replace(plain, kept=0.5)
    yield replace(plain, acts="int3")
    yield replace(plain, acts="none", rank=8, half=False)
    for size in (16, 48):
        yield replace(plain, n_group=size)
        yield replace(plain, n_group=size, acts="none", rank=3)


def every_format() -> Iterator[str]:
    """Against the oracle, with the same bits for one thread and three; NaN in a row."""
    for case in cases():
        inputs = case.weights()
        model = matmul_model(case.attributes(), inputs, residual=case.residual)
        runs = [session(model, count) for count in (1, 3)]
        for m in ROWS:
            feeds = case.feeds(m)
            for broken in (False, True):
                if broken:
                    feeds["X"][0, -1] = np.nan if case.k % 2 else np.inf
                expected = case.expected(feeds["X"], inputs, feeds.get("residual"))
                y, other = (run.run(None, feeds)[0] for run in runs)
                error = worst(y, expected)
                if not error <= CLOSE:
                    yield f"{case} M={m} {broken}: error {error:.3g}"
                if y.tobytes() != other.tobytes():
                    yield f"{case} M={m}: bits depend on the number of threads"


def equal_scores() -> Iterator[str]:
    """Of runs that weigh the same those of lower index are kept; zeros give zeros."""
    case = Case(16, 160, 8, acts="none", keep=0.25)
    inputs = case.weights()
    inputs["column_norms"][:] = 1
    run = session(matmul_model(case.attributes(), inputs))
    for value in (1.0, 0.0):
        x = np.full((1, 160), value, np.float32)
        cut = x.copy()
        cut[:, 3 * 16 :] = 0
        inputs_of_all = {name: each for name, each in inputs.items() if name != "column_norms"}
        expected = replace(case, keep=None).expected(cut, inputs_of_all)
        if worst(run.run(None, {"X": x})[0], expected) > CLOSE:
            yield f"{value}"


def normed() -> Iterator[str]:
    """Behind a norm and a Hadamard transform, up to a code."""
    for acts, limit in (("none", 2e-5), ("int8", 1e-2)):
        case = Case(33, 192, 4, 32, acts, 32, keep=0.5, epsilon=1e-3, hadamard=64)
        inputs = case.weights()
        run = session(matmul_model(case.attributes(), inputs))
        for m in ROWS:
            x = case.rows(m)
            error = worst(run.run(None, {"X": x})[0], case.expected(x, inputs))
            if not error <= limit:
                yield f"{case} M={m}: error {error:.3g}"


def guard_pages() -> Iterator[str]:
    """Inputs and output that end, or begin, at a page that must not be touched."""
    for bits in range(1, 9):
        case = Case(33, 70, bits, 32, act_group=32, keep=0.5, zero_points=True)
        inputs = case.weights()
        run = session(matmul_model(case.attributes(), inputs, constant=False))
        for m in (1, 3):
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
                if not worst(y, expected) <= CLOSE:
                    yield f"{case} M={m} {side}: error {worst(y, expected):.3g}"


CHECKS: dict[str, Callable[[], Iterator[str]]] = {
    check.__name__: check for check in (every_format, equal_scores, normed, guard_pages)
}
