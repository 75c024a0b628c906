"""``QuantizeActivation``: round an activation to a few levels per row and group, kept as float.

The neutral form in which a quantized activation travels until a target's lowering takes it in.
Rows are the vectors along ``axis``: the last one for matmuls, 1 for convolutions, whose rows are
the pixels of [n, C, ...].  With a second input, ``scale``, that is the scale of all.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from bitfold.runtime.ops.body import Body

TINY = 1e-30
"""Groups whose largest magnitude is below this become zeros."""


def quantized(
    body: Body, x: ir.Value, k: int, group_size: int, bits: int = 8, axis: int = -1
) -> ir.Value:
    """Add the nodes that round ``x`` per run of ``group_size`` of the ``k`` elements of ``axis``.

    Every step is done in float32 just as the kernels do it, so that both find the same codes.  One
    bit stands for signs, times the mean magnitude.

    Raises:
        ValueError: ``axis`` is neither -1 nor 1, or is 1 and ``group_size`` does not divide ``k``.
    """
    if axis == 1:
        return _quantized_pixels(body, x, k, group_size, bits)
    if axis != -1:
        raise ValueError(f"expected axis -1 or 1, found {axis}")
    groups = -(-k // group_size)
    lead = body("Shape", x, start=0, end=-1)
    padded = body.pad_last(x, groups * group_size - k)
    shape = body("Concat", lead, body.ints(groups, group_size), axis=0)
    grouped = body("Reshape", padded, shape)
    flat = body("Concat", lead, body.ints(groups * group_size), axis=0)
    counts = np.minimum(group_size, k - group_size * np.arange(groups))
    rounded = body("Reshape", _rounded(body, grouped, -1, bits, counts), flat)
    return rounded if k == groups * group_size else body.slice(rounded, -1, 0, k)


def quantized_with(body: Body, x: ir.Value, scale: ir.Value) -> ir.Value:
    """Add the nodes that round ``x`` to int8 levels of one given ``scale`` f32 [1]."""
    scaled = body("Mul", x, body("Div", body.floats(1.0), scale))
    within = body("Clip", scaled, body.floats(-127.0), body.floats(127.0))
    return body("Mul", body("Round", within), scale)


def _quantized_pixels(body: Body, x: ir.Value, k: int, group_size: int, bits: int) -> ir.Value:
    """The same for [n, k, ...] along axis 1."""
    if k % group_size:
        raise ValueError(f"expected groups that divide {k} channels, found {group_size}")
    sizes = (
        body("Shape", x, start=0, end=1),
        body.ints(k // group_size, group_size),
        body("Shape", x, start=2),
    )
    grouped = body("Reshape", x, body("Concat", *sizes, axis=0), allowzero=1)
    counts = np.full(k // group_size, group_size)
    rounded = _rounded(body, grouped, 2, bits, counts)
    return body("Reshape", rounded, body("Shape", x), allowzero=1)


def _rounded(body: Body, grouped: ir.Value, axis: int, bits: int, counts: np.ndarray) -> ir.Value:
    """Round to levels of the largest magnitude along ``axis``, which holds ``counts`` elements."""
    if bits == 1:
        return _signs(body, grouped, axis, counts)
    top = float((1 << (bits - 1)) - 1)
    reach = body("ReduceMax", body("Abs", grouped), body.ints(axis), keepdims=1)
    dead = body("Less", reach, body.floats(TINY))
    zero = body.floats(0.0)
    inverse = body("Where", dead, zero, body("Div", body.floats(top), reach))
    scale = body("Where", dead, zero, body("Div", reach, body.floats(top)))
    return body("Mul", body("Round", body("Mul", grouped, inverse)), scale)


def _signs(body: Body, grouped: ir.Value, axis: int, counts: np.ndarray) -> ir.Value:
    """Signs times mean magnitudes along ``axis`` (XNOR-Net, arXiv 1603.05279)."""
    zero = body.floats(0.0)
    total = body("ReduceSum", body("Abs", grouped), body.ints(axis), keepdims=1)
    if len(set(counts)) == 1:
        divisor = body.floats(float(counts[0]))
    else:  # a shorter last group of a row: [groups, 1]
        divisor = body("Constant", value=ir.tensor(counts.astype(np.float32).reshape(-1, 1)))
    mean = body("Div", total, divisor)
    scale = body("Where", body("Less", mean, body.floats(TINY)), zero, mean)
    return body("Where", body("Less", grouped, zero), body("Neg", scale), scale)


def quantize_activation(k: int, group_size: int, bits: int = 8, axis: int = -1) -> ir.Function:
    """The function for activations of ``k`` channels, rounded per ``group_size`` of them."""
    body = Body(["X"])
    output = quantized(body, body.inputs[0], k, group_size, bits, axis)
    attributes = activation_attributes(group_size, bits, axis)
    overload = f"k{k}_g{group_size}_b{bits}" + f"_axis{axis}" * (axis != -1)
    return body.function("QuantizeActivation", overload, output, attributes)


def static_quantize_activation() -> ir.Function:
    """The function for activations that all share one scale f32 [1], the second input."""
    body = Body(["X", "scale"])
    output = quantized_with(body, *body.inputs)
    return body.function("QuantizeActivation", "static", output, static_attributes())


def static_attributes() -> dict[str, int | str]:
    """The attributes of a ``QuantizeActivation`` node with one scale for all."""
    return {"bits": 8}


def activation_attributes(group_size: int, bits: int = 8, axis: int = -1) -> dict[str, int | str]:
    """The attributes of a ``QuantizeActivation`` node; ``axis`` is left out where it is -1."""
    attributes: dict[str, int | str] = {"group_size": group_size, "bits": bits}
    return attributes if axis == -1 else {**attributes, "axis": axis}
