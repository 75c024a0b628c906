"""Choose one option of each item, within a budget: the integer program of bit allocation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import optimize, sparse

from bitfold.runtime.errors import RecipeError

GAP = 1e-4
"""Share of the least total loss by which what is found may be above it."""


def choose(
    losses: Sequence[Sequence[float]], sizes: Sequence[Sequence[int]], budget: float
) -> list[int]:
    """The option of each item with the least total loss, at a total size of ``budget`` at most.

    Bit allocation as an integer program (Hubara et al., "Improving post training neural
    quantization: layer-wise calibration and integer programming", arXiv 2006.10518).

    Args:
        losses: of each option of each item, not negative.
        sizes: likewise.

    Raises:
        RecipeError: even the smallest options are larger than that.
    """
    least = sum(min(each) for each in sizes)
    if least > budget:
        raise RecipeError(
            f"the weights take {least} bytes at least, and {int(budget)} are allowed",
            "allow more, or name smaller formats or larger groups to choose from",
        )
    item = np.repeat(np.arange(len(sizes)), [len(each) for each in sizes])
    loss = np.concatenate([np.asarray(each, np.float64) for each in losses])
    size = np.concatenate([np.asarray(each, np.float64) for each in sizes])
    once = sparse.coo_array((np.ones(len(item)), (item, np.arange(len(item)))))
    found = optimize.milp(
        loss / (loss.max() or 1.0),  # the solver's tolerances are absolute
        integrality=np.ones(len(item)),
        bounds=(0, 1),
        constraints=[
            optimize.LinearConstraint(once, 1, 1),
            optimize.LinearConstraint(size / budget, -np.inf, 1),
        ],
        options={"mip_rel_gap": GAP},
    )
    assert found.x is not None, "the smallest options fit"
    starts = np.searchsorted(item, np.arange(len(sizes)))
    parts = np.split(found.x, starts[1:])
    return [int(part.argmax()) for part in parts]
