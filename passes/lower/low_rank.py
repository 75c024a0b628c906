"""A low-rank branch beside a quantized matmul, which goes into LowBitMatMul."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bitfold.passes.analysis.sites import Site, is_constant, site_of
from bitfold.passes.lower.epilogue import is_op, only_consumer
from bitfold.runtime.ops.lowbit_matmul import MOST_RANK


@dataclass(frozen=True)
class ThinMatMul:
    """A matmul with a constant factor [out, in].

    Attributes:
        node: the MatMul.
        factor: an initializer of float32, or of float16 behind a Cast to float32.
        out_first: whether it is stored as [out, in]; otherwise it is [in, out].
    """

    node: ir.Node
    factor: ir.Value
    out_first: bool

    @property
    def data(self) -> ir.Value | None:
        """What is multiplied."""
        return self.node.inputs[0]

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        assert self.factor.shape is not None, "factors have a shape"
        first, second = self.factor.shape.numpy()
        return (first, second) if self.out_first else (second, first)

    def array(self) -> np.ndarray:
        """The factor [out, in], of the type that it is stored in."""
        assert self.factor.const_value is not None, "factors are constant"
        array = self.factor.const_value.numpy()
        return np.ascontiguousarray(array if self.out_first else array.T)


@dataclass(frozen=True)
class LowRank:
    """Two thin matmuls of a site's float input, whose product is added to the site's.

    Attributes:
        down: the matmul with D [R, K].
        up: the matmul with U [N, R], which alone reads the other.
    """

    down: ThinMatMul
    up: ThinMatMul

    @property
    def nodes(self) -> list[ir.Node]:
        """Both matmuls, in order."""
        return [self.down.node, self.up.node]

    def factors(self) -> tuple[np.ndarray, np.ndarray]:
        """D and U: float16 where that holds every number of both exactly, else float32."""
        factors = [self.down.array(), self.up.array()]
        with np.errstate(over="ignore"):
            halves = [factor.astype(np.float16) for factor in factors]
        exact = all(map(np.array_equal, halves, factors))
        down, up = halves if exact else [factor.astype(np.float32) for factor in factors]
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


def _thin(value: ir.Value | None, site: Site) -> ThinMatMul | None:
    """The float32 matmul that computes ``value`` for one reader."""
    node = value.producer() if value is not None else None
    if value is None or node is None or only_consumer(value, site.node.graph) is None:
        return None
    if value.dtype != ir.DataType.FLOAT:
        return None
    found = site_of(node)
    if found is not None and found.kind == "matmul" and found.quantized is None:
        return ThinMatMul(node, found.source, found.out_first)
    half = _widened(node.inputs[1]) if is_op(node, "MatMul") else None
    return ThinMatMul(node, half, out_first=False) if half is not None else None


def _widened(value: ir.Value | None) -> ir.Value | None:
    """The constant float16 matrix that ``value`` is in float32; None for anything else."""
    cast = value.producer() if value is not None else None
    source = cast.inputs[0] if cast is not None and is_op(cast, "Cast") else None
    if source is None or source.dtype != ir.DataType.FLOAT16 or not is_constant(source):
        return None
    return source if source.shape is not None and len(source.shape) == 2 else None
