"""``QuantizeActivation``: round an activation to a few levels per row and group, kept as float.

The neutral form in which a quantized activation travels until a target's lowering takes it in.
"""

from __future__ import annotations

import onnx_ir as ir

from bitfold.runtime.ops.body import Body

TINY = 1e-30
"""Groups whose largest magnitude is below this become zeros."""


def quantized(body: Body, x: ir.Value, k: int, group_size: int, bits: int = 8) -> ir.Value:
    """Add the nodes that round ``x`` [..., K] per run of ``group_size`` inputs.

    Every step is done in float32 just as the kernels do it, so that both find the same codes.
    """
    top = float((1 << (bits - 1)) - 1)
    groups = -(-k // group_size)
    lead = body("Shape", x, start=0, end=-1)
    padded = body.pad_last(x, groups * group_size - k)
    shape = body("Concat", lead, body.ints(groups, group_size), axis=0)
    grouped = body("Reshape", padded, shape)
    reach = body("ReduceMax", body("Abs", grouped), body.ints(-1), keepdims=1)
    dead = body("Less", reach, body.floats(TINY))
    zero = body.floats(0.0)
    inverse = body("Where", dead, zero, body("Div", body.floats(top), reach))
    scale = body("Where", dead, zero, body("Div", reach, body.floats(top)))
    levels = body("Round", body("Mul", grouped, inverse))
    flat = body("Concat", lead, body.ints(groups * group_size), axis=0)
    rounded = body("Reshape", body("Mul", levels, scale), flat)
    return rounded if k == groups * group_size else body.slice(rounded, -1, 0, k)


def quantize_activation(k: int, group_size: int, bits: int = 8) -> ir.Function:
    """The function for activations of ``k`` channels, rounded per ``group_size`` of them."""
    body = Body(["X"])
    output = quantized(body, body.inputs[0], k, group_size, bits)
    attributes = activation_attributes(group_size, bits)
    return body.function("QuantizeActivation", f"k{k}_g{group_size}_b{bits}", output, attributes)


def activation_attributes(group_size: int, bits: int = 8) -> dict[str, int | str]:
    """The attributes of a ``QuantizeActivation`` node."""
    return {"group_size": group_size, "bits": bits}
