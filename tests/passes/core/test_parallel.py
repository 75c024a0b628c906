"""Work on all cores comes back in order, and its errors come through."""

from __future__ import annotations

import pytest

from bitfold.passes.core.parallel import in_parallel


@pytest.mark.parametrize("count", [0, 1, 50])
def test_in_order(count: int) -> None:
    assert in_parallel(lambda item: item * item, list(range(count))) == [
        item * item for item in range(count)
    ]


def test_errors() -> None:
    with pytest.raises(ZeroDivisionError):
        in_parallel(lambda item: 1 // item, [1, 0, 2])
