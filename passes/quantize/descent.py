"""Coordinate descent on the codes and scales of a weight that is rounded already."""

from __future__ import annotations

import numpy as np

from bitfold.passes.quantize.columns import Columns

BLOCK = 64
"""Columns after which the change is carried to all others at once."""


def descend(columns: Columns) -> None:
    """One sweep: each group's scales, then each of its codes, to what is best given all others.

    The loss ``tr((W - Q) H (W - Q)^T)`` is a parabola in each of them, so that a step goes to its
    lowest point, or the code next to it (QuantEase: Behdin et al., arXiv 2309.01885).
    """
    gram, diagonal = columns.gram, np.diag(columns.gram)
    pull = gram @ (columns.weight - columns.rounded)  # half the loss's slope, downwards
    for group, run in columns.runs():
        columns.fit_scale(group, run, pull)
        for start in range(run.start, run.stop, BLOCK):
            block = slice(start, min(start + BLOCK, run.stop))
            before, near = columns.rounded[block].copy(), pull[block].copy()
            for place, j in enumerate(range(block.start, block.stop)):
                columns.round_column(j, before[place] + near[place] / diagonal[j])
                near[place:] -= np.outer(
                    gram[j, j : block.stop], columns.rounded[j] - before[place]
                )
            pull -= gram[:, block] @ (columns.rounded[block] - before)
