"""Every format, group size and number of threads at odd shapes; run as ``kernel_checks`` is.

``sampled`` draws from all of it, and finds the smallest case that fails; ``full`` goes over a grid
(every third of its cases where the environment has BITFOLD_SHORT).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from support.kernel_checks import ACTIVATIONS, joined, mismatch
from support.lowbit_nodes import Case, interleaved, matmul_model, session

from bitfold.runtime.formats import FORMATS, Format
from bitfold.runtime.layouts.tiles import pack_codes

GROUPS = (16, 32, 64, 128, 256, 0)
"""Group sizes; 0 is the whole row."""
SHAPES = [(1, 1, 1), (1, 17, 31), (2, 47, 97), (5, 16, 256), (7, 33, 300), (13, 1, 577)]
SHAPES += [(6, 64, 64), (31, 18, 129), (64, 95, 40), (130, 70, 520)]
"""M, N and K."""
SAMPLES = 150


def weights(case: Case, number: Format) -> dict[str, np.ndarray]:
    """A case's inputs, with codes that the format has and its table."""
    inputs = case.weights()
    rng = np.random.default_rng(case.seed)
    levels = np.asarray(number.levels, np.float32)
    codes = number.encode(levels[rng.integers(0, len(levels), (case.n, case.k))])
    if case.activation == "swiglu":
        codes = interleaved(codes)
    inputs["packed"] = pack_codes(codes, case.bits)
    table = number.table()
    if table is not None:
        inputs["table"] = table
    return inputs


def magnitude(case: Case, inputs: dict[str, np.ndarray], feeds: dict[str, np.ndarray]) -> float:
    """How large sums are where their terms do not cancel, as those of a single output may."""
    plain = {name: array for name, array in inputs.items() if name != "bias"}
    linear = replace(case, acts="none", activation="none")
    w = linear.expected(np.eye(case.k, dtype=np.float32), plain)
    product = np.sqrt(np.mean(np.square(feeds["X"]), 1).max() * np.square(w).sum(0).max())
    product += np.abs(inputs.get("bias", np.zeros(1))).max()
    if case.activation == "swiglu":
        product = max(product, product**2)
    return float(product + np.abs(feeds.get("residual", np.zeros(1))).max())


def wrong(case: Case, number: Format, m: int, threads: int) -> str:
    """What is wrong with the answer, or an empty string."""
    inputs = weights(case, number)
    feeds = case.feeds(m)
    model = matmul_model(case.attributes(), inputs, residual=case.residual)
    found = session(model, threads).run(None, feeds)
    expected = case.expected(feeds["X"], inputs, feeds.get("residual"))
    error = mismatch(np.concatenate(found, 1), expected, magnitude(case, inputs, feeds))
    if not error and threads > 1 and joined(session(model).run(None, feeds)) != joined(found):
        error = "bits depend on the number of threads"
    return f"{number.name} M={m} {threads} thread(s) {case}: {error}" if error else ""


@st.composite
def drawn(draw: st.DrawFn) -> tuple[Case, Format, int, int]:
    """A case, its format, M and the number of threads."""
    number = draw(st.sampled_from(list(FORMATS.values())))
    m = draw(st.integers(1, 20) | st.integers(1, 150))
    n, k = draw(st.integers(1, 40) | st.integers(1, 300)), draw(st.integers(1, 700))
    group = draw(st.sampled_from([each for each in GROUPS if each < k]))
    case = Case(
        n,
        k,
        number.bits,
        group,
        draw(st.sampled_from(["int8", "none"])) if number.integral else "none",
        draw(st.sampled_from([0, group])),
        draw(st.sampled_from(ACTIVATIONS)),
        *(draw(st.booleans()) for _ in range(2)),
        bias=draw(st.booleans()),
        residual=draw(st.booleans()),
    )
    if case.activation == "swiglu":
        case = replace(case, n=2 * n)
    return case, number, m, draw(st.integers(1, 8))


def sampled() -> Iterator[str]:
    """Cases drawn from all of it."""

    @settings(max_examples=SAMPLES, deadline=None, database=None, derandomize="CI" in os.environ)
    @given(drawn())
    def check(each: tuple[Case, Format, int, int]) -> None:
        error = wrong(*each)
        if error:
            raise ValueError(error)

    try:
        check()
    except ValueError as error:
        yield str(error)


def full() -> Iterator[str]:
    """Every format with every group size at every shape; each meets all numbers of threads."""
    step = 3 if os.environ.get("BITFOLD_SHORT") else 1
    grid = list(product(FORMATS.values(), GROUPS, SHAPES, ("int8", "none")))
    for index, (number, group, (m, n, k), acts) in enumerate(grid):
        if index % step or group >= k or (acts == "int8" and not number.integral):
            continue
        case = Case(n, k, number.bits, group, acts, group if index % 2 else 0)
        error = wrong(replace(case, zero_points=index % 5 > 2), number, m, 1 + index % 8)
        if error:
            yield error


CHECKS: dict[str, Callable[[], Iterator[str]]] = {"sampled": sampled, "full": full}
