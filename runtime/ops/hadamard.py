"""``Hadamard``: rows times an orthonormal Hadamard matrix; see the package's docstring."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
from scipy.linalg import hadamard as sylvester

from bitfold.runtime.ops.body import Body

INPUTS = ["X", "base"]


def transformed(
    body: Body, x: ir.Value, base: ir.Value | None, size: int, order: int = 1
) -> ir.Value:
    """Add the nodes that multiply ``x`` [..., K] by the matrix, in blocks of ``size``.

    A block is seen as [m, 2**a, 2**b] and multiplied by one small matrix along each axis.

    Args:
        body: what takes the nodes.
        x: the rows; ``size`` divides K.
        base: int8 [order, order], or None where ``order`` is 1.
        size: ``order`` times a power of two.
        order: m.
    """
    bits = (size // order).bit_length() - 1
    outer = bits // 2
    inner = bits - outer
    y = x
    if inner:
        y = body("MatMul", body.reshape(y, -1, 1 << inner), _sylvester(body, inner))
    if outer:
        y = _middle_times(body, y, 1 << outer, 1 << inner, _sylvester(body, outer))
    if base is not None:
        y = _middle_times(body, y, order, 1 << bits, body.to_float(base))
    scaled = body("Mul", y, body.floats(scale_of(size)))
    return body("Reshape", scaled, body("Shape", x), allowzero=1)


def scale_of(size: int) -> float:
    """``1 / sqrt(size)``, as the kernels round it to float32."""
    return float(np.float32(1 / math.sqrt(size)))


def _middle_times(body: Body, y: ir.Value, size: int, run: int, matrix: ir.Value) -> ir.Value:
    """Multiply the middle axis of [-1, size, run].

    By way of two axes: ORT has no product of batches for an empty one (no tokens, say).
    """
    turned = body.transpose(body.reshape(y, -1, size, run), 0, 2, 1)
    product = body("MatMul", body.reshape(turned, -1, size), matrix)
    return body.transpose(body.reshape(product, -1, run, size), 0, 2, 1)


def _sylvester(body: Body, bits: int) -> ir.Value:
    matrix = sylvester(1 << bits, dtype=np.int8)
    return body.to_float(body("Constant", value=ir.tensor(matrix)))


def hadamard(size: int, order: int = 1) -> ir.Function:
    """The function for blocks of ``size`` with a base matrix of ``order`` (1: without one)."""
    body = Body(INPUTS)
    x, base = body.inputs
    output = transformed(body, x, base if order > 1 else None, size, order)
    return body.function("Hadamard", f"s{size}_m{order}", output, {"size": size})
