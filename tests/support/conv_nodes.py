"""Random ``LowBitConv`` nodes, as ONNX models, beside their oracle's answers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from support.lowbit_nodes import FACTOR, session, stored

from bitfold.runtime.layouts.conv import pack_conv_weight
from bitfold.runtime.ops.body import call
from bitfold.runtime.ops.lowbit_conv import INPUTS, LowBitConv
from bitfold.runtime.ops.scale_floats import kind_of
from bitfold.runtime.reference.lowbit_conv import lowbit_conv


@dataclass(frozen=True)
class ConvCase:
    """One configuration of ``LowBitConv``; ``group`` and ``act_group`` 0 stand for all channels
    of a conv group."""

    n: int
    c: int
    kernel: tuple[int, ...]
    bits: int
    groups: int = 1
    strides: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    group: int = 0
    acts: str = "int8"
    act_group: int = 0
    activation: str = "none"
    clip: tuple[float, float] = (0.0, 6.0)
    f16: bool = True
    zero_points: bool = False
    table: bool = False
    bias: bool = False
    seed: int = 0
    zero_range: int = 7
    out_scale: float = 1.0
    out_shift: float = 0.0
    scales: str = ""
    float_table: bool = False

    @property
    def operator(self) -> LowBitConv:
        """The operator's configuration."""
        rank = len(self.kernel)
        return LowBitConv(
            self.n,
            self.c,
            self.groups,
            self.kernel,
            self.strides or (1,) * rank,
            self.pads or (0,) * (2 * rank),
            self.dilations or (1,) * rank,
            self.bits,
            self.group or self.c // self.groups,
            self.zero_points,
            self.table or self.float_table,
            self.acts,
            self.act_group,
            self.bias,
            self.activation,
            *(self.clip if self.activation == "clip" else (0.0, 0.0)),
            self.out_scale,
            self.out_shift,
            scale_kind=kind_of(stored(np.ones(1), self.scales or "f32")),
            scale_factor=FACTOR,
        )

    def attributes(self) -> dict[str, Any]:
        """The node's attributes."""
        return self.operator.attributes()

    def weights(self) -> dict[str, np.ndarray]:
        """The node's inputs but X, random but for the seed."""
        rng = np.random.default_rng(self.seed)
        layout = self.operator.layout
        codes = rng.integers(0, 1 << self.bits, (self.n, layout.taps * layout.cg)).astype(np.uint8)
        scales = rng.uniform(0.005, 0.02, (self.n, layout.scales))
        scales = stored(scales, self.scales or ("f16" if self.f16 else "f32"))
        zeros = rng.integers(-self.zero_range, self.zero_range + 1, scales.shape).astype(np.int8)
        packed = pack_conv_weight(
            codes,
            scales,
            zeros if self.zero_points else None,
            self.bits,
            self.groups,
            layout.taps,
            layout.cg,
            layout.group_size,
        )
        inputs = {"packed": packed.codes, "scales": packed.scales}
        if packed.zero_points is not None:
            inputs["zero_points"] = packed.zero_points
        if self.table:
            inputs["table"] = rng.integers(-128, 128, 1 << self.bits).astype(np.int8)
        if self.float_table:
            inputs["table"] = 5 * rng.standard_normal(1 << self.bits, np.float32)
        if self.bias:
            inputs["bias"] = rng.standard_normal(self.n).astype(np.float32)
        return inputs

    def image(self, images: int, *spatial: int) -> np.ndarray:
        """X float32 [images, C, *spatial]."""
        rng = np.random.default_rng(self.seed + math.prod(spatial))
        return rng.standard_normal((images, self.c, *spatial), np.float32)

    def expected(self, x: np.ndarray, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """The oracle's Y, float64."""
        attributes = self.attributes()
        for name in ("N", "C", "layout"):
            del attributes[name]
        return lowbit_conv(x, **inputs, n=self.n, **attributes)


def conv_model(
    attributes: dict[str, Any], inputs: dict[str, np.ndarray], constant: bool = True
) -> onnx.ModelProto:
    """A model of one ``LowBitConv``; its inputs but X are initializers, or fed as well."""
    names = ["X", *(name if name in inputs else "" for name in INPUTS[1:])]
    while not names[-1]:
        names.pop()
    node = helper.make_node("LowBitConv", names, ["Y"], "node", domain="bitfold", **attributes)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "XY")
    weights = [numpy_helper.from_array(array, name) for name, array in inputs.items()]
    fed = [
        helper.make_tensor_value_info(
            each.name, each.data_type, None if each.name == "residual" else each.dims
        )
        for each in weights
    ]
    graph = helper.make_graph(
        [node], "g", [x, *([] if constant else fed)], [y], weights if constant else []
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("bitfold", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def conv_session(case: ConvCase, threads: int = 1) -> ort.InferenceSession:
    """A session for one case."""
    return session(conv_model(case.attributes(), case.weights()), threads)


def body_model(case: ConvCase, inputs: dict[str, np.ndarray]) -> onnx.ModelProto:
    """A model of one ``LowBitConv`` with its function body, for ORT without the library."""
    rank = len(case.kernel)
    float_type = ir.TensorType(ir.DataType.FLOAT)
    sizes = ["n", case.c, *(f"s{axis}" for axis in range(rank))]
    x = ir.Value(name="X", type=float_type, shape=ir.Shape(sizes))
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 23}, name="g")
    values: list[ir.Value | None] = [x]
    for name in INPUTS[1:]:
        if name not in inputs:
            values.append(None)
            continue
        tensor = ir.tensor(inputs[name], name=name)
        value = ir.Value(name=name, const_value=tensor, type=ir.TensorType(tensor.dtype))
        graph.register_initializer(value)
        values.append(value)
    model = ir.Model(graph, ir_version=10)
    operator = case.operator
    node = call(model, operator.function(), values, operator.attributes(), "node")
    graph.append(node)
    node.outputs[0].name, node.outputs[0].type = "Y", float_type
    graph.outputs.append(node.outputs[0])
    return ir.to_proto(model)
