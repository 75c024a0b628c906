"""The methods of ``quantize``: a new one is a file here and a line in ``METHODS``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from bitfold.passes.core.parallel import ONE_AT_A_TIME, Engine
from bitfold.passes.quantize.adaquant import adaquant
from bitfold.passes.quantize.adaround import adaround
from bitfold.passes.quantize.dual_binary import dual_binary
from bitfold.passes.quantize.families import with_member
from bitfold.passes.quantize.gptq import gptq
from bitfold.passes.quantize.partial_binary import partial_binary
from bitfold.passes.quantize.pvq import pvq, pvq_informed
from bitfold.passes.quantize.rounding import QuantizedWeight, round_to_nearest
from bitfold.runtime.formats.binary import BINARY
from bitfold.runtime.formats.scheme import WeightScheme

MethodName = Literal["rtn", "gptq", "adaround", "adaquant", "pvq", "pb", "dual-binary", "ada-dim"]


@dataclass(frozen=True)
class Method:
    """A way to make codes and scales of a weight.

    Attributes:
        blind: a function of the weight [N, K], the scheme and how ranges are found.
        informed: one of the weight, the mean of ``x x^T`` over its inputs [K, K], the scheme, how
            ranges are found, and the columns of a group; None for methods that need no inputs.
        sums: whether that makes sums of two weights, of which the first is binary.  Matmuls alone
            take such; other weights, and other formats, are then rounded by ``gptq``.
        options: fields of ``Rounder`` that ``informed`` takes too, by their names.
        in_rows: whether ``informed`` takes an engine that rows are shared out to.
        scaled: whether columns may be scaled before, where the inputs of a matmul take it.
    """

    blind: Callable[[np.ndarray, WeightScheme, str], QuantizedWeight]
    informed: Callable[..., QuantizedWeight] | None = None
    sums: bool = False
    options: tuple[str, ...] = ()
    in_rows: bool = False
    scaled: bool = False


METHODS: dict[str, Method] = {
    "rtn": Method(round_to_nearest),
    "gptq": Method(round_to_nearest, gptq, in_rows=True),
    "ada-dim": Method(round_to_nearest, gptq, in_rows=True, scaled=True),
    "pb": Method(round_to_nearest, partial_binary, sums=True, options=("salient",)),
    "dual-binary": Method(round_to_nearest, dual_binary, sums=True),
    "adaround": Method(round_to_nearest, adaround),
    "adaquant": Method(round_to_nearest, adaquant),
    "pvq": Method(pvq, pvq_informed),
}


def method_for(method: str, scheme: WeightScheme, matmuls: bool) -> str:
    """The method for a weight, or what stands in for it.

    Args:
        matmuls: whether all that reads the weight is a MatMul or Gemm.
    """
    fits = not METHODS[method].sums or (matmuls and scheme.format == BINARY.name)
    return method if fits else "gptq"


def quantized_by(
    method: str,
    rows: np.ndarray,
    gram: np.ndarray | None,
    scheme: WeightScheme,
    ranges: str,
    engine: Engine = ONE_AT_A_TIME,
    **options: Any,
) -> QuantizedWeight:
    """Quantize a weight, given as ``rows`` whose groups are whole.

    Args:
        rows: finite, [R, C]; with a Gram matrix, C divides its size, and as many rows as make it
            up are one output's.
        gram: mean of ``x x^T`` over the inputs that the weight meets; None if unknown: the method
            does then what it can without.
        scheme: format, groups and symmetry.
        ranges: how ranges are found.
        engine: what rows are shared out to.
        options: those that the method has.
    """
    way = METHODS[method]
    energy = None if gram is None else np.diag(gram)
    scheme = with_member(scheme, rows, energy, ranges)
    if gram is None or way.informed is None:
        return way.blind(rows, scheme, ranges)
    size = scheme.group_size(rows.shape[1])
    whole = rows.reshape(-1, len(gram))
    if way.in_rows:
        options["engine"] = engine
    return way.informed(whole, gram, scheme, ranges, size, **options).with_rows(len(rows))
