"""Hadamard matrices, fast transforms, and the operator's function body in stock ORT."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import hadamard as sylvester
from support.hadamard_nodes import SIZES, base_of, hadamard_model, with_body

from bitfold.runtime.errors import UnsupportedError
from bitfold.runtime.hadamard import (
    MOST_BASE,
    base_matrix,
    hadamard_base,
    hadamard_matrix,
    hadamard_transform,
    largest_block,
)
from bitfold.runtime.reference.hadamard import hadamard


def test_base_matrices_are_hadamard_matrices() -> None:
    """Every order that is ever returned as a base; 12 and 28 from Paley I, 36 and 52 from II."""
    orders = {m for odd in range(1, 44, 2) for m in _bases_of(odd)}
    assert {1, 12, 20, 28, 36, 44, 52, 60, 68, 76, 84, 344} <= orders
    for order in sorted(orders):
        matrix = base_matrix(order).astype(np.float32)  # products of it are exact
        assert set(np.unique(matrix)) <= {1, -1}
        assert np.array_equal(matrix @ matrix.T, order * np.eye(order)), order


def _bases_of(odd: int) -> list[int]:
    try:
        return [hadamard_base(odd * 512)[0]] if odd * 4 <= MOST_BASE else []
    except UnsupportedError:
        return []


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (1, (1, 0)),
        (2, (1, 1)),
        (4096, (1, 12)),
        (576, (36, 4)),
        (1536, (12, 7)),
        (896, (28, 5)),
        (4864, (76, 6)),
        (11008, (344, 5)),
        (14336, (28, 9)),
        (52, (52, 0)),
    ],
)
def test_base_of_known_sizes(size: int, expected: tuple[int, int]) -> None:
    assert hadamard_base(size) == expected


@pytest.mark.parametrize("size", [-4, 0, 3, 6, 18, 92, 4 * 9973])
def test_sizes_without_a_matrix(size: int) -> None:
    with pytest.raises(UnsupportedError, match=f"no Hadamard matrix of order {size}: expected"):
        hadamard_base(size)


@pytest.mark.parametrize(("size", "block"), [(3, 1), (6, 2), (100, 100), (92, 4), (1000, 1000)])
def test_largest_block(size: int, block: int) -> None:
    assert largest_block(size) == block


def test_powers_of_two_are_scipys() -> None:
    assert np.array_equal(hadamard_matrix(64), sylvester(64))


@given(st.sampled_from([1, 2, 8, 12, 20, 24, 36, 64, 72, 112]), st.integers(1, 3), st.booleans())
def test_transform_is_the_matrix(size: int, blocks: int, inverse: bool) -> None:
    """In blocks, both ways, and back."""
    x = np.random.default_rng(size).standard_normal((5, blocks * size))
    y = hadamard_transform(x, size, inverse)
    matrix = hadamard_matrix(size).astype(np.float64) / np.sqrt(size)
    dense = x.reshape(-1, size) @ (matrix.T if inverse else matrix)
    np.testing.assert_allclose(y, dense.reshape(x.shape), atol=1e-12)
    np.testing.assert_allclose(hadamard_transform(y, size, not inverse), x, atol=1e-12)


@pytest.mark.parametrize("size", SIZES)
def test_body_agrees_with_the_oracle(size: int) -> None:
    base = base_of(size)
    model = with_body(hadamard_model(size, base), size)
    dense = sum(
        np.prod(each.dims)
        for f in model.functions
        for node in f.node
        for each in (a.t for a in node.attribute if a.HasField("t"))
    )
    assert dense <= 4 * size, "no dense matrix lies in the body"
    run = ort.InferenceSession(model.SerializeToString())
    rng = np.random.default_rng(size)
    for shape in ((size,), (3, 2 * size), (2, 2, size), (2, 0, size)):
        x = rng.standard_normal(shape).astype(np.float32)
        y = run.run(None, {"X": x})[0]
        assert y.shape == x.shape
        np.testing.assert_allclose(y, hadamard(x, base, size=size), atol=1e-5)
    # Sums of integers are exact: only the scale is rounded.
    x = rng.integers(-8, 9, (2, size)).astype(np.float32)
    y = run.run(None, {"X": x})[0]
    np.testing.assert_array_equal(y, hadamard(x, base, size=size).astype(np.float32))
