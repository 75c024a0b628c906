"""``DequantizeWeight``: a weight from its codes, kept apart from any packed layout.

The neutral form in which a quantized weight travels until a target's lowering packs it.
Inputs: ``codes`` u8 [N, K], ``scales`` [N, G] of any type that the operators take, optional
``zero_points`` i8 [N, G], optional ``table`` i8 or f32 [2**bits].  Output: the float weight [N, K].
"""

from __future__ import annotations

import onnx_ir as ir

from bitfold.runtime.ops.body import Body
from bitfold.runtime.ops.scale_floats import ScaleKind, factor_attribute, scale_floats


def dequantized(
    body: Body,
    codes: ir.Value,
    scales: ir.Value,
    zeros: ir.Value | None,
    table: ir.Value | None,
    k: int,
    group_size: int,
    bits: int,
) -> ir.Value:
    """Add the nodes that turn ``codes`` [N, K], as u8 or f32, into a float weight [N, K].

    ``scales`` are float32 already.
    """
    groups = -(-k // group_size)
    if table is not None:
        index = body("Cast", codes, to=ir.DataType.INT32)
        levels = body.to_float(body("Gather", table, index, axis=0))
    else:
        levels = body("Sub", body.to_float(codes), body.floats(float(1 << (bits - 1))))
    levels = body.reshape(body.pad_last(levels, groups * group_size - k), -1, groups, group_size)
    if zeros is not None:
        levels = body("Sub", levels, body.reshape(body.to_float(zeros), -1, groups, 1))
    scaled = body("Mul", levels, body.reshape(scales, -1, groups, 1))
    flat = body.reshape(scaled, -1, groups * group_size)
    return flat if k == groups * group_size else body.slice(flat, 1, 0, k)


def dequantize_weight(
    k: int,
    group_size: int,
    bits: int,
    zero_points: bool,
    table: bool,
    scale_kind: ScaleKind = "float",
) -> ir.Function:
    """The function for weights of ``k`` input channels in groups of ``group_size``."""
    body = Body(["codes", "scales", "zero_points", "table"])
    codes, scales, zeros, looked_up = body.inputs
    output = dequantized(
        body,
        codes,
        scale_floats(body, scales, scale_kind),
        zeros if zero_points else None,
        looked_up if table else None,
        k,
        group_size,
        bits,
    )
    overload = f"k{k}_g{group_size}_b{bits}{'_z' if zero_points else ''}{'_t' if table else ''}"
    overload += f"_{scale_kind}" * (scale_kind != "float")
    attributes = dequantize_attributes(group_size, bits, scale_kind)
    return body.function("DequantizeWeight", overload, output, attributes)


def dequantize_attributes(
    group_size: int, bits: int, scale_kind: ScaleKind = "float", scale_factor: float = 1.0
) -> dict[str, int | float]:
    """The attributes of a ``DequantizeWeight`` node."""
    return {
        "group_size": group_size,
        "bits": bits,
        **factor_attribute(scale_kind, scale_factor),
    }
