"""``QuantizeProbabilities``: round what a softmax gives to a few levels, kept as float.

Most probabilities are near 0 and a few of a row say nearly all, so levels are not evenly spaced:

============  =====================================================================================
``uniform``   multiples of ``1 / (2**bits - 1)``: what the others are compared with
``log2``      ``2**-q``, q below ``2**bits``; smaller ones are 0 (FQ-ViT, arXiv 2111.13824)
``log_sqrt2`` ``2**(-q/2)``, likewise: twice as dense (RepQuant, arXiv 2402.05628, section 3.3)
``binary``    0 below a quarter of the row's largest, the mean of the others else: 1 bit (BiViT,
              arXiv 2211.07091, section 3.2: the threshold is its first approximation, and the
              scale, which it drops for networks that are trained so, stays)
============  =====================================================================================

No target has a kernel for it: the function body runs, in float.
"""

from __future__ import annotations

import math
from typing import Literal

import onnx_ir as ir

from bitfold.runtime.ops.body import Body

Levels = Literal["uniform", "log2", "log_sqrt2", "binary"]

LEAST = 1e-37
"""Smaller probabilities are 0 in every format, and have a logarithm that is no number."""

THRESHOLD = 0.25
"""Share of a row's largest probability from which another is kept in ``binary``."""


def quantize_probabilities(levels: Levels, bits: int) -> ir.Function:
    """The function for rows along the last axis of X, between 0 and 1."""
    body = Body(["X"])
    (x,) = body.inputs
    if levels == "binary":
        output = _binary(body, x)
    elif levels == "uniform":
        top = body.floats(float((1 << bits) - 1))
        output = body("Div", body("Round", body("Mul", x, top)), top)
    else:
        output = _logarithmic(body, x, bits, 1 if levels == "log2" else 2)
    attributes = probability_attributes(levels, bits)
    overload = levels if levels == "binary" else f"{levels}_b{bits}"
    return body.function("QuantizeProbabilities", overload, output, attributes)


def probability_attributes(levels: Levels, bits: int) -> dict[str, int | str]:
    """The attributes of a ``QuantizeProbabilities`` node."""
    return {"levels": levels, "bits": 1 if levels == "binary" else bits}


def _logarithmic(body: Body, x: ir.Value, bits: int, per_octave: int) -> ir.Value:
    rate = per_octave / math.log(2)
    logarithm = body("Log", body("Max", x, body.floats(LEAST)))
    code = body("Round", body("Mul", logarithm, body.floats(-rate)))
    level = body("Exp", body("Mul", code, body.floats(-1 / rate)))
    kept = body("Less", code, body.floats(float(1 << bits)))
    return body("Where", kept, level, body.floats(0.0))


def _binary(body: Body, x: ir.Value) -> ir.Value:
    last = body.ints(-1)
    least = body("Mul", body("ReduceMax", x, last, keepdims=1), body.floats(THRESHOLD))
    kept = body.to_float(body("GreaterOrEqual", x, least))
    total = body("ReduceSum", body("Mul", x, kept), last, keepdims=1)
    return body("Mul", kept, body("Div", total, body("ReduceSum", kept, last, keepdims=1)))
