"""Round a matmul's or convolution's input on the fly with standard operators."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from bitfold.passes.core.context import Context
from bitfold.passes.core.rewire import shared_initializer
from bitfold.passes.lower.epilogue import array_of
from bitfold.passes.lower.neutral import Rounding
from bitfold.passes.lower.surgery import Builder
from bitfold.runtime.ops.quantize_activation import TINY


def round_input(graph: ir.Graph, context: Context, rounding: Rounding, channels: int) -> ir.Value:
    """The rounded input, float again: QuantizeLinear and DequantizeLinear with one scale a block.

    The scale is a block's largest magnitude over the largest level, or its mean magnitude at one
    bit, as ``bitfold.QuantizeActivation`` has it; blocks below 1e-30 become next to nothing, not
    zeros.

    Args:
        graph: the model's graph, which takes the constants.
        channels: elements of the axis.
    """
    build = Builder(rounding.node.name or "quantize")
    if rounding.scale is not None:
        return _static(build, graph, context, rounding)
    size = min(rounding.group_size, channels)
    groups = -(-channels // size)

    def constant(array: np.ndarray, name: str) -> ir.Value:
        return shared_initializer(graph, context, array, f"bitfold.{name}")

    def ints(*values: int) -> ir.Value:
        return constant(np.array(values, np.int64), "ints." + "_".join(map(str, values)))

    axis, source = rounding.axis, rounding.source
    lead = build("Shape", source, start=0, end=axis)
    tail = [] if axis == -1 else [build("Shape", source, start=axis + 1)]
    signs = rounding.bits == 1
    reduce = "ReduceSum" if signs else "ReduceMax"
    magnitude = build("Abs", source)
    if groups == 1:
        reach = build(reduce, magnitude, ints(axis), keepdims=1)
    else:
        if groups * size != channels:
            magnitude = build("Pad", magnitude, ints(0, groups * size - channels), None, ints(-1))
        shape = build("Concat", lead, ints(groups, size), *tail, axis=0)
        grouped = build("Reshape", magnitude, shape, allowzero=1)
        reach = build(reduce, grouped, ints(-1 if axis == -1 else axis + 1), keepdims=0)
    # ORT leaves the axes of an empty tensor (no tokens, say) as they are when it reduces one.
    per_block = build("Concat", lead, ints(groups), *tail, axis=0)
    reach = build("Reshape", reach, per_block, allowzero=1)
    # A block of zeros must not be divided by 0.
    reach = build("Max", reach, constant(np.array([TINY], np.float32), "tiny"))
    if signs:
        # The last block of a row may be shorter; those of pixels are all alike.
        counts = np.full(1, size) if axis == 1 else np.diff([*range(0, channels, size), channels])
        name = f"counts.{channels}_{size}" + "_pixels" * (axis == 1)
        scale = build("Div", reach, constant(counts.astype(np.float32), name))
        negative = build("Less", source, constant(np.zeros(1, np.float32), "zero"))
        minus, plus = (constant(np.array([each], np.int8), f"sign{each}") for each in (-1, 1))
        levels = build("Where", negative, minus, plus)
    else:
        top = (1 << (rounding.bits - 1)) - 1
        scale = build("Div", reach, constant(np.array([top], np.float32), f"top{top}"))
        levels = build(
            "QuantizeLinear",
            source,
            scale,
            axis=rounding.axis,
            block_size=size,
            output_dtype=int(ir.DataType.INT8),
        )
    rounded = build("DequantizeLinear", levels, scale, axis=rounding.axis, block_size=size)
    rounded.type, rounded.shape = rounding.source.type, rounding.source.shape
    build.place(rounding.node)
    return rounded


def _static(build: Builder, graph: ir.Graph, context: Context, rounding: Rounding) -> ir.Value:
    """The same with one scale that is known ahead: a constant, and no reduction."""
    scale = array_of(rounding.scale)
    assert scale is not None, "static scales are constants"
    name = f"{rounding.source.name}.static_scale_0d"
    value = shared_initializer(graph, context, scale.reshape(()), name)
    # QuantizeLinear saturates at -128, one level below the operator's own.
    low, high = (
        shared_initializer(
            graph, context, np.float32(sign * 127) * scale.reshape(()), f"{name}.{end}"
        )
        for sign, end in ((-1, "low"), (1, "high"))
    )
    levels = build(
        "QuantizeLinear",
        build("Clip", rounding.source, low, high),
        value,
        output_dtype=int(ir.DataType.INT8),
    )
    rounded = build("DequantizeLinear", levels, value)
    rounded.type, rounded.shape = rounding.source.type, rounding.source.shape
    build.place(rounding.node)
    return rounded
