"""Weights as ONNX stores them: integers of 2, 4 or 8 bits, packed low bits first."""

from __future__ import annotations

import functools

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from bitfold.passes.core.context import Context
from bitfold.passes.core.rewire import new_initializer

TYPES = {2: ir.DataType.INT2, 4: ir.DataType.INT4, 8: ir.DataType.INT8}
"""The signed integer type of each width."""

OPSETS = {2: 25, 4: 21, 8: 21}
"""The version of the standard operators from which DequantizeLinear takes each width in blocks."""

HALF_SCALES = 23
"""The version from which DequantizeLinear makes float32 of float16 scales."""

IR_VERSIONS = {2: 13, 4: 10, 8: 10}
"""The version of the file format that has each type."""


def pack_bits(values: np.ndarray, bits: int) -> np.ndarray:
    """Pack the low ``bits`` bits of uint8 or int8 values [..., C] into bytes [..., ceil(C*bits/8)].

    The first value goes to the lowest bits, as ONNX packs INT4 and ORT's operators their codes;
    what is left of the last byte is 0.
    """
    per = 8 // bits
    values = values.view(np.uint8) & np.uint8((1 << bits) - 1)
    short = -values.shape[-1] % per
    if short:
        values = np.concatenate([values, np.zeros((*values.shape[:-1], short), np.uint8)], axis=-1)
    packed = np.array(values[..., 0::per])
    for place in range(1, per):
        packed |= values[..., place::per] << np.uint8(place * bits)
    return packed


def integer_initializer(
    graph: ir.Graph, context: Context, levels: np.ndarray, bits: int, name: str
) -> ir.Value:
    """An initializer that holds int8 ``levels`` as integers of ``bits`` bits."""
    if bits == 8:
        return new_initializer(graph, context, levels.view(np.int8), name)
    value = new_initializer(graph, context, pack_bits(levels.reshape(-1), bits), name)
    assert value.const_value is not None, "made above"
    packed = value.const_value.raw
    value.const_value = ir.PackedTensor(packed, TYPES[bits], shape=ir.Shape(levels.shape))
    value.const_value.name = value.name
    value.type, value.shape = ir.TensorType(TYPES[bits]), ir.Shape(levels.shape)
    return value


@functools.cache
def runs_int2() -> bool:
    """Whether the ORT that is installed dequantizes INT2."""
    codes = ir.Value(
        name="codes", const_value=ir.PackedTensor(np.zeros(4, np.uint8), TYPES[2], shape=[16])
    )
    scale = ir.Value(name="scale", const_value=ir.tensor(np.float32(1), name="scale"))
    node = ir.node("DequantizeLinear", [codes, scale])
    node.outputs[0].name, node.outputs[0].type = "y", ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph(
        [],
        [node.outputs[0]],
        nodes=[node],
        initializers=[codes, scale],
        opset_imports={"": OPSETS[2]},
        name="int2",
    )
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        model = ir.to_proto(ir.Model(graph, ir_version=IR_VERSIONS[2])).SerializeToString()
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        session.run(None, {})
    except Exception:
        # ORT raises a class of its own for each status; any of them is a "no" here.
        return False
    return True
