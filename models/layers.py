"""What graphs of real models share: their weights, and activations as exporters write them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx_ir as ir

from bitfold.models.lazy import Weights, fetch_weight, lazy_tensor
from bitfold.models.scope import Scope


def lazy_weight(
    at: Scope,
    weights: Weights,
    shapes: Mapping[str, tuple[int, ...]],
    name: str,
    transpose: bool = False,
) -> ir.Value:
    """A weight, or its transpose, as an initializer that is read when it is asked for.

    Args:
        weights: where it is.
        shapes: the shape that each weight must have, before it is transposed.

    Raises:
        ModelError: it is missing, or has another shape.
    """
    weight = fetch_weight(weights, name, shapes[name])
    return at.initializer(name, lazy_tensor(weight, name, transpose))


def gelu(at: Scope, x: ir.Value) -> ir.Value:
    """x·(1 + erf(x/√2))·½ (Hendrycks and Gimpel, 2016, arXiv 1606.08415)."""
    erf = at.add("Erf", at.add("Div", x, math.sqrt(2.0)))
    return at.add("Mul", at.add("Mul", x, at.add("Add", erf, 1.0)), 0.5)
