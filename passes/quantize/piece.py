"""A weight to quantize, apart from its graph: work for any core, process or machine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bitfold.passes.analysis.sites import Site
from bitfold.passes.quantize.conv_scheme import conv_rows
from bitfold.passes.quantize.jobs import Job, finite_weight
from bitfold.passes.quantize.weight_sum import WeightSum
from bitfold.runtime.formats.scheme import QuantScheme


@dataclass(frozen=True)
class Piece:
    """All that decides a weight's codes, besides the options of the pass.

    Attributes:
        rows: the weight, float32, in rows whose groups are whole: of a convolution, one for each
            output and tap.
        gram: as a job's.
        scheme: how it is to be quantized.
        shape: of the weight, [N, K].
        matmuls: whether all that reads it is a MatMul or Gemm.
        conv: whether that is a convolution; ``depthwise``: with a group for each channel.
    """

    rows: np.ndarray
    gram: np.ndarray | None
    scheme: QuantScheme
    shape: tuple[int, int]
    matmuls: bool
    conv: bool
    depthwise: bool


@dataclass(frozen=True)
class Outcome:
    """What came of a piece.

    Attributes:
        weight: codes and scales; None where the weight is to stay as it is.
        grid: why it was rounded; empty where it lies on a grid and was kept exactly.
        quality: SQNR of the weight in decibels.
        output: that of its outputs, where its inputs are known and it was rounded.
    """

    weight: WeightSum | None
    grid: str
    quality: float = 0.0
    output: float | None = None


def piece_of(job: Job, scheme: QuantScheme) -> Piece:
    """The piece of a job.

    Raises:
        ModelError: the weight is not finite.
    """
    site = job.sites[0]
    matmuls = all(each.kind in ("matmul", "gemm") for each in job.sites)
    depthwise = site.conv is not None and site.conv.depthwise
    return Piece(
        _rows(site), job.gram, scheme, site.shape, matmuls, site.conv is not None, depthwise
    )


def _rows(site: Site) -> np.ndarray:
    weight = finite_weight(site)
    return weight if site.conv is None else conv_rows(weight, site.conv)
