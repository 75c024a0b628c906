"""The integer program finds what trying everything finds."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from bitfold.passes.allocate.choose import GAP, choose
from bitfold.runtime.errors import RecipeError


@pytest.mark.parametrize("seed", range(20))
def test_best_of_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 5, 5)
    losses = [rng.exponential(size=count) * 10.0 ** rng.integers(-6, 3) for count in counts]
    sizes = [rng.integers(1, 1000, count) for count in counts]
    low, high = sum(map(min, sizes)), sum(map(max, sizes))
    budget = rng.uniform(low, high)

    def totals(chosen: tuple[int, ...]) -> tuple[float, int]:
        pairs = [(losses[i][j], sizes[i][j]) for i, j in enumerate(chosen)]
        return sum(loss for loss, _ in pairs), sum(size for _, size in pairs)

    every = (totals(each) for each in product(*map(range, counts)))
    least = min(loss for loss, size in every if size <= budget)
    loss, size = totals(tuple(choose(losses, sizes, budget)))
    assert size <= budget
    assert loss <= least * (1 + GAP) + 1e-6 * max(map(max, losses))


def test_nothing_fits() -> None:
    with pytest.raises(RecipeError, match="take 30 bytes at least, and 29 are allowed"):
        choose([[1.0], [2.0, 0.0]], [[10], [20, 40]], 29)


def test_losses_of_zero() -> None:
    assert choose([[0.0, 0.0], [0.0]], [[10, 5], [5]], 10) == [1, 0]
