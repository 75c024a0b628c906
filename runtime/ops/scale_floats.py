"""The float32 numbers that stored scales stand for, in stock ONNX."""

from __future__ import annotations

from typing import Literal

import numpy as np
import onnx_ir as ir

from bitfold.runtime.formats.scale_types import DTYPES, scale_values
from bitfold.runtime.ops.body import Body

ScaleKind = Literal["float", "e8m0", "e4m3"]
"""How scales are read: cast to float32, as exponents, or cast and multiplied by a factor."""


def kind_of(scales: np.ndarray) -> ScaleKind:
    """How these scales are read."""
    if scales.dtype == DTYPES["e8m0"]:
        return "e8m0"
    return "e4m3" if scales.dtype == DTYPES["e4m3"] else "float"


def scale_floats(body: Body, scales: ir.Value, kind: ScaleKind) -> ir.Value:
    """Add the nodes that make float32 of ``scales``; those of ``e4m3`` read ``scale_factor``."""
    if kind == "e8m0":
        powers = scale_values(np.arange(256, dtype=np.uint8))
        powers[255] = np.nan
        table = body("Constant", value=ir.tensor(powers))
        return body("Gather", table, body("Cast", scales, to=ir.DataType.INT32), axis=0)
    if kind == "e4m3":
        return body("Mul", body.to_float(scales), body.float_attribute("scale_factor"))
    return body.to_float(scales)


def factor_attribute(kind: ScaleKind, factor: float) -> dict[str, float]:
    """The attribute ``scale_factor``, which is there for ``e4m3`` scales alone."""
    return {"scale_factor": float(np.float32(factor))} if kind == "e4m3" else {}
