"""A low-rank branch beside a quantized matmul, which goes into LowBitMatMul."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis.sites import Site, site_of
from bitfold.passes.lower.epilogue import only_consumer

MOST_RANK = 512
"""The largest rank that the operator takes."""


@dataclass(frozen=True)
class LowRank:
    """Two thin matmuls of a site's float input, whose product is added to the site's.

    Attributes:
        down: the matmul with D [R, K].
        up: the matmul with U [N, R], which alone reads the other.
    """

    down: Site
    up: Site

    @property
    def nodes(self) -> list[ir.Node]:
        """Both matmuls, in order."""
        return [self.down.node, self.up.node]

    def factors(self) -> tuple[np.ndarray, np.ndarray]:
        """D and U: float16 where that holds every number of both exactly, else float32."""
        factors = [np.ascontiguousarray(site.weight()) for site in (self.down, self.up)]
        with np.errstate(over="ignore"):
            halves = [factor.astype(np.float16) for factor in factors]
        exact = all(map(np.array_equal, halves, factors))
        down, up = halves if exact else factors
        return down, up


def low_rank_of(product: ir.Value | None, site: Site, source: ir.Value) -> LowRank | None:
    """The branch whose result is ``product``; None where that is something else.

    Args:
        product: what is added to the site's own product, which alone may read it.
        source: the site's input before it is rounded: the branch must read just that.
    """
    n, k = site.shape
    up = _thin(product, site)
    down = _thin(up.data, site) if up is not None else None
    if up is None or down is None or down.data is not source:
        return None
    rank, inputs = down.shape
    fits = inputs == k and up.shape == (n, rank) and 1 <= rank <= MOST_RANK
    return LowRank(down, up) if fits else None


def _thin(value: ir.Value | None, site: Site) -> Site | None:
    """The float32 matmul that computes ``value`` for one reader."""
    node = value.producer() if value is not None else None
    if value is None or node is None or only_consumer(value, site.node.graph) is None:
        return None
    found = site_of(node)
    plain = found is not None and found.kind == "matmul" and found.quantized is None
    return found if plain and value.dtype == ir.DataType.FLOAT else None
