"""``Hadamard`` nodes as ONNX models: bitfold's kernel, and the function body in stock ORT."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from bitfold.runtime.hadamard import base_matrix, hadamard_base
from bitfold.runtime.ops.hadamard import hadamard

SIZES = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096]
SIZES += [12, 24, 48, 96, 192, 1536, 20, 40, 28, 28 * 32, 36, 72, 576, 44, 76 * 16, 344]
"""Every number of bits, and bases with runs shorter and longer than a vector."""


def base_of(size: int) -> np.ndarray | None:
    """The base matrix for a size, None where it is a power of two."""
    order, _ = hadamard_base(size)
    return base_matrix(order) if order > 1 else None


def hadamard_model(size: int, base: np.ndarray | None, constant: bool = True) -> onnx.ModelProto:
    """A model of one node without a body; ``base`` is an initializer, or fed."""
    node = helper.make_node(
        "Hadamard", ["X"] + ["base"] * (base is not None), ["Y"], domain="bitfold", size=size
    )
    fed = [helper.make_tensor_value_info("X", TensorProto.FLOAT, None)]
    tensors = [numpy_helper.from_array(base, "base")] if base is not None else []
    if not constant:
        fed += [
            helper.make_tensor_value_info(each.name, each.data_type, each.dims) for each in tensors
        ]
    out = helper.make_tensor_value_info("Y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "g", fed, [out], tensors if constant else [])
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("bitfold", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def with_body(model: onnx.ModelProto, size: int) -> onnx.ModelProto:
    """The same model with the node's function, which stock ORT runs."""
    function = hadamard(size, hadamard_base(size)[0])
    proto = ir.serde.serialize_function(function)
    model.graph.node[0].overload = function.overload
    model.functions.append(proto)
    return model
