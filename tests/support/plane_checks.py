"""Checks of activations of one to four bits for one ISA; run by ``check_process``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import onnxruntime as ort
from support.guard_pages import BEHIND, guarded_copy
from support.kernel_checks import SHAPES, joined, mismatch
from support.lowbit_nodes import Case, matmul_model, matmul_session, session

ACTS = ("int1", "int2", "int3", "int4")
ROWS = [1, 2, 3, 5, 6, 13]
"""Every number of rows that a block may have."""
BINARY = {1: (-1, 1)}
SPACED = {1: (-3, 4), 2: (3, 1, -1, -3), 3: tuple(range(-7, 9, 2)), 4: tuple(range(-15, 16, 2))}
"""Evenly spaced tables: what planes multiply."""


def with_table(case: Case, table: tuple[int, ...] | None) -> dict[str, np.ndarray]:
    """The case's inputs, looked up in a table of its own."""
    inputs = case.weights()
    if table is not None:
        inputs["table"] = np.array(table, np.int8)
    return inputs


def disagreements(
    case: Case, table: tuple[int, ...] | None = None, rows: list[int] = ROWS
) -> Iterator[str]:
    """What is wrong with a case's outputs."""
    inputs = with_table(case, table)
    run = session(matmul_model(case.attributes(), inputs))
    x = case.rows(max(rows))
    expected = case.expected(x, inputs)
    for m in rows:
        wrong = mismatch(run.run(None, {"X": x[:m]})[0], expected[:m])
        if wrong:
            yield f"{case} table {table} M={m}: {wrong}"


def every_width() -> Iterator[str]:
    """Weights and activations of every few bits, over groups and shapes that do and do not fit."""
    for acts in ACTS:
        for bits in range(1, 5):
            for index, (n, k, group) in enumerate(SHAPES):
                case = Case(n, k, bits, group, acts, act_group=group, seed=index)
                yield from disagreements(case)
                yield from disagreements(case, BINARY.get(bits))
                yield from disagreements(replace(case, act_group=0), SPACED[bits], [1, 3, 8])


def options() -> Iterator[str]:
    """Zero points, float32 scales, bias, activations, residuals, splits; uneven tables."""
    for acts in ACTS:
        for bits in (1, 2, 3, 4, 6, 8):
            case = Case(70, 160, bits, 64, acts, act_group=64, zero_points=True, bias=True)
            yield from disagreements(case)
            yield from disagreements(replace(case, f16=False, group=0, act_group=0))
            yield from disagreements(replace(case, table=True))
            yield from disagreements(case, SPACED.get(bits))
            if bits == 2:  # steps that the first level is no multiple of
                yield from disagreements(case, (-4, -1, 2, 5))
            yield from disagreements(replace(case, activation="swiglu", act_group=0))
            residual = replace(case, activation="gelu", residual=True)
            feeds = residual.feeds(9)
            expected = residual.expected(feeds["X"], residual.weights(), feeds["residual"])
            wrong = mismatch(matmul_session(residual).run(None, feeds)[0], expected)
            if wrong:
                yield f"{residual}: {wrong}"
            parts = replace(case, splits=(16, 54))
            found = np.hstack(matmul_session(parts).run(None, {"X": feeds["X"]}))
            wrong = mismatch(found, parts.expected(feeds["X"], parts.weights()))
            if wrong:
                yield f"{parts}: {wrong}"


def odd_shapes() -> Iterator[str]:
    """Every N, K and M from 1 on."""
    for size in range(1, 70):
        for acts, bits in (("int1", 1), ("int2", 2), ("int1", 3)):
            yield from disagreements(Case(size, 64, bits, 32, acts, 32), None, [size])
            yield from disagreements(Case(20, size, bits, acts=acts), None, [2])


def extremes() -> Iterator[str]:
    """Long rows of equal bits are summed exactly; so are those of 16 bits and more."""
    for acts in ACTS:
        for bits in range(1, 5):
            case = Case(17, 65536, bits, acts=acts, f16=False)
            inputs = case.weights()
            inputs["scales"][:] = 1
            for byte in (0, 255):
                inputs["packed"][:] = byte
                run = session(matmul_model(case.attributes(), inputs))
                x = np.ones((2, case.k), np.float32)
                x[1] = -1
                expected = case.expected(x, inputs)
                if not np.allclose(run.run(None, {"X": x})[0], expected, rtol=1e-6, atol=0):
                    yield f"{case} bytes {byte}"


def broken_rows() -> Iterator[str]:
    """NaN and infinity spoil their own rows only; zeros, tiny and huge rows are right."""
    for acts in ACTS:
        for bits, group, act_group in ((1, 32, 32), (2, 64, 0), (5, 32, 32)):
            case = Case(40, 100, bits, group, acts, act_group, zero_points=True)
            run, inputs = matmul_session(case), case.weights()
            x = case.rows(20)
            x[0, 99], x[1, 40], x[2, 0], x[3] = np.nan, np.inf, -np.inf, 0
            x[4] *= 1e-32
            x[5] *= 1e30
            x[6, :32] = 0
            x[7, ::2] *= -0.0
            for rows in (x, x[:1], x[2:3], x[4:8]):
                wrong = mismatch(run.run(None, {"X": rows})[0], case.expected(rows, inputs))
                if wrong:
                    yield f"{case} M={len(rows)}: {wrong}"
            if run.run(None, {"X": x[3:5]})[0].any():
                yield f"{case}: rows of zeros, or below 1e-30, become zeros"


def threads() -> Iterator[str]:
    """The same bits for any number of threads."""
    for case in (
        Case(1000, 576, 1, 64, "int1", 64, zero_points=True),
        Case(1024, 320, 2, 64, "int2", activation="swiglu", bias=True),
        Case(1000, 320, 4, 64, "int3", 64),
    ):
        runs = [matmul_session(case, count) for count in (1, 3)]
        for m in (1, 7, 300):
            outputs = {joined(run.run(None, {"X": case.rows(m)})) for run in runs}
            if len(outputs) > 1:
                yield f"{case} M={m}: bits depend on the number of threads"


def guard_pages() -> Iterator[str]:
    """Inputs and output that end, or begin, at a page that must not be touched."""
    for acts in ACTS:
        for bits in range(1, 5):
            for case in (
                Case(33, 70, bits, 32, acts, 32, zero_points=True, bias=True),
                Case(16, 35, bits, acts=acts, f16=False),
                Case(36, 64, bits, 64, acts, activation="swiglu", zero_points=True),
            ):
                inputs = case.weights()
                run = session(matmul_model(case.attributes(), inputs, constant=False))
                for m in (1, 9):
                    feeds = {"X": case.rows(m), **inputs}
                    expected = case.expected(feeds["X"], inputs)
                    for side in BEHIND:
                        fed = {k: guarded_copy(v, side) for k, v in feeds.items()}
                        y = guarded_copy(np.zeros(expected.shape, np.float32), side)
                        bound = run.io_binding()
                        for name, array in fed.items():
                            value = ort.OrtValue.ortvalue_from_numpy(array)
                            bound.bind_ortvalue_input(name, value)
                        bound.bind_ortvalue_output("Y", ort.OrtValue.ortvalue_from_numpy(y))
                        run.run_with_iobinding(bound)
                        wrong = mismatch(y, expected)
                        if wrong:
                            yield f"{case} M={m} {side}: {wrong}"


CHECKS: dict[str, Callable[[], Iterator[str]]] = {
    check.__name__: check
    for check in (
        every_width,
        options,
        odd_shapes,
        extremes,
        broken_rows,
        threads,
        guard_pages,
    )
}
