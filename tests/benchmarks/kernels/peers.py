"""ORT's own kernels: f32 MatMul, and MatMulNBits at whichever accuracy level is faster."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .subject import Run, Subject

ACCURACY_LEVELS = {0: 1e-4, 4: 0.05}
"""``accuracy_level`` and the largest error that it may make: 4 rounds activations to int8."""


def float_matmul(k: int, n: int) -> Subject:
    """ORT's f32 MatMul."""
    weight = np.random.default_rng(0).standard_normal((k, n), np.float32)
    model = _model("MatMul", "", {"w": weight})
    return Subject("ORT f32", model, n * k, weight.nbytes, lambda x: x @ weight, 1e-4)


def matmul_nbits(bits: int, block: int, k: int, n: int, level: int) -> Subject:
    """ORT's symmetric MatMulNBits."""
    rng = np.random.default_rng(0)
    blocks = -(-k // block)
    codes = rng.integers(0, 1 << bits, (n, blocks, block), np.uint8)
    scales = rng.uniform(0.005, 0.02, (n, blocks)).astype(np.float32)
    packed = np.zeros((n, blocks, block * bits // 8), np.uint8)
    for index in range(8 // bits):
        packed |= codes[..., index :: 8 // bits] << (index * bits)
    floats = (codes.astype(np.float32) - (1 << bits - 1)) * scales[..., None]
    weight = floats.reshape(n, -1)[:, :k]
    inputs: dict[str, np.ndarray] = {"b": packed, "scales": scales.reshape(-1)}
    sizes = {"N": n, "K": k, "bits": bits, "block_size": block, "accuracy_level": level}
    model = _model("MatMulNBits", "com.microsoft", inputs, **sizes)
    return Subject(
        f"ORT {bits}b g{block}",
        model,
        n * k,
        sum(array.nbytes for array in inputs.values()),
        lambda x: x @ weight.T,
        ACCURACY_LEVELS[level],
    )


def best_matmul_nbits(
    bits: int, block: int, k: int, n: int, x: np.ndarray, threads: int
) -> tuple[Subject, int]:
    """The faster of the accuracy levels for this number of rows, and which one it is."""
    found = []
    for level in ACCURACY_LEVELS:
        subject = matmul_nbits(bits, block, k, n, level)
        found.append((Run(subject, x, 1, threads).seconds(0.005), level, subject))
    _, level, subject = min(found, key=lambda each: each[0])
    return subject, level


def _model(
    op: str, domain: str, weights: dict[str, np.ndarray], **attributes: Any
) -> onnx.ModelProto:
    """A model of one of ORT's own ops on X."""
    node = helper.make_node(op, ["X", *weights], ["Y"], domain=domain, **attributes)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "XY"]
    initializers = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph([node], "g", values[:1], values[1:], initializers)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)
