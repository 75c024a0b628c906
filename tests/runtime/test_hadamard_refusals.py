"""``Hadamard`` nodes that the operator refuses."""

from __future__ import annotations

import numpy as np
import pytest
from support.hadamard_nodes import base_of, hadamard_model
from support.lowbit_nodes import session


@pytest.mark.parametrize(
    ("size", "base", "message"),
    [
        (0, None, "'size': expected 1 to"),
        (-4, None, "'size': expected 1 to"),
        (1 << 40, None, "'size': expected 1 to"),
        (12, None, "'size': expected a power of two, found 12"),
        (16, base_of(12), "'size': expected 12 times a power of two, found 16"),
        (36, base_of(12), "'size': expected 12 times a power of two, found 36"),
        (8, base_of(12), "'size': expected 12 times a power of two, found 8"),
        (2, np.ones((2, 2), np.int8), "base: expected int8 [m, m], m a multiple of 4 up to 512"),
        (12, np.ones((12, 8), np.int8), "base: expected int8 [m, m]"),
        (12, np.ones(144, np.int8), "base: expected int8 [m, m]"),
        (0, np.ones((0, 0), np.int8), "'size': expected 1 to"),
        (4, np.ones((0, 0), np.int8), "base: expected int8 [m, m]"),
        (516, np.ones((516, 516), np.int8), "base: expected int8 [m, m]"),
        (4, np.full((4, 4), 2, np.int8), "base: expected entries 1 and -1, found 2"),
    ],
)
def test_refused_when_the_session_opens(size: int, base: np.ndarray | None, message: str) -> None:
    with pytest.raises(Exception, match="Hadamard: ") as caught:
        session(hadamard_model(size, base))
    assert message in str(caught.value)


def test_base_that_is_fed() -> None:
    with pytest.raises(Exception, match="base: expected a constant"):
        session(hadamard_model(12, base_of(12), constant=False))


@pytest.mark.parametrize("shape", [(), (2, 12), (12, 2), (8,)])
def test_rows_of_another_width(shape: tuple[int, ...]) -> None:
    with pytest.raises(Exception, match="X: expected a last dimension that 'size' = 24 divides"):
        session(hadamard_model(24, base_of(24))).run(None, {"X": np.zeros(shape, np.float32)})
