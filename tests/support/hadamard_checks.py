"""Checks of the ``Hadamard`` kernels of one ISA, for ``kernel_checks``."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnxruntime as ort
from support.guard_pages import BEHIND, guarded_copy
from support.hadamard_nodes import SIZES, base_of, hadamard_model
from support.lowbit_nodes import session

from bitfold.runtime.hadamard import hadamard_transform
from bitfold.runtime.reference.hadamard import hadamard


def hadamard_sizes() -> Iterator[str]:
    """Every size against the oracle: floats closely, integers exactly but for the scale."""
    for size in SIZES:
        base = base_of(size)
        run = session(hadamard_model(size, base))
        rng = np.random.default_rng(size)
        for shape in ((size,), (1, 3 * size), (2, 5, 2 * size), (2, 0, size)):
            x = rng.standard_normal(shape).astype(np.float32)
            y, expected = run.run(None, {"X": x})[0], hadamard(x, base, size=size)
            if y.shape != x.shape or np.abs(y - expected).max(initial=0) > 1e-5:
                yield f"size {size}, X {shape}: {np.abs(y - expected).max(initial=0)}"
            x = rng.integers(-8, 9, shape).astype(np.float32)
            y, expected = run.run(None, {"X": x})[0], hadamard(x, base, size=size)
            if not np.array_equal(y, expected.astype(np.float32)):
                yield f"size {size}, X {shape}: sums of integers are not exact"
    # Three passes over a run; the fast transform stands in for an oracle that would not fit.
    size = 1 << 13
    x = np.random.default_rng(0).integers(-8, 9, (3, 2 * size)).astype(np.float32)
    y = session(hadamard_model(size, None)).run(None, {"X": x})[0]
    if not np.array_equal(y, hadamard_transform(x, size)):
        yield f"size {size}: sums of integers are not exact"


def hadamard_threads() -> Iterator[str]:
    """The same bits for any number of threads; NaN stays in its block."""
    for size, columns in ((576, 576), (1536, 3072), (4096, 4096), (16, 48)):
        runs = [session(hadamard_model(size, base_of(size)), count) for count in (1, 2, 3)]
        x = np.random.default_rng(size).standard_normal((65, columns)).astype(np.float32)
        x[3, 1], x[4, 2] = np.nan, np.inf
        first, *others = [run.run(None, {"X": x})[0] for run in runs]
        if any(other.tobytes() != first.tobytes() for other in others):
            yield f"size {size}: bits depend on the number of threads"
        lost = np.zeros((65, columns), bool)
        lost[3:5, :size] = True
        if np.isfinite(first[lost]).any() or not np.isfinite(first[~lost]).all():
            yield f"size {size}: NaN and infinity are not where they belong"


def hadamard_guard_pages() -> Iterator[str]:
    """X and Y that end, or begin, at a page that must not be touched."""
    for size in (1, 2, 4, 8, 12, 20, 24, 28, 64, 576, 1536):
        base = base_of(size)
        run = session(hadamard_model(size, base))
        for rows in (1, 3):
            x = np.random.default_rng(rows).standard_normal((rows, size)).astype(np.float32)
            expected = hadamard(x, base, size=size)
            for side in BEHIND:
                bound = run.io_binding()
                y = guarded_copy(np.zeros(x.shape, np.float32), side)
                held = ort.OrtValue.ortvalue_from_numpy(guarded_copy(x, side))
                bound.bind_ortvalue_input("X", held)
                bound.bind_ortvalue_output("Y", ort.OrtValue.ortvalue_from_numpy(y))
                run.run_with_iobinding(bound)
                if np.abs(y - expected).max() > 1e-5:
                    yield f"size {size}, {rows} rows, {side}"


HADAMARD_CHECKS = (hadamard_sizes, hadamard_threads, hadamard_guard_pages)
