"""Weights of many zeros: which are, what the masked layout saves, and that lowering takes it."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from support.lowbit_nodes import session

from bitfold.passes.core.context import Context
from bitfold.passes.fuse.fuse_swiglu import FuseSwiGLU
from bitfold.passes.lower.lower import Lower
from bitfold.passes.lower.masked_weight import kept_weights, masked_share
from bitfold.passes.lower.neutral import NeutralWeight
from bitfold.passes.quantize.quantize import Quantize
from bitfold.runtime.layouts.masked import MASKED_VERSION
from bitfold.runtime.layouts.tiles import LAYOUT_VERSION
from bitfold.runtime.op_library import op_library_path

RNG = np.random.default_rng(5)


def two_of_four(shape: tuple[int, int]) -> np.ndarray:
    """A weight [K, N] of which two of each four inputs are zero."""
    weight = RNG.normal(size=shape).astype(np.float32)
    order = RNG.permuted(np.tile([0, 1, 2, 3], (shape[1], shape[0] // 4, 1)), axis=2)
    return weight * (order < 2).reshape(shape[1], shape[0]).T


def sparse_model() -> ir.Model:
    """A SwiGLU MLP of sparse weights, and a head of a dense one."""
    model = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["": 23]>
        gated (float[b, 48] x) => (float[b, 70] logits) {
            both = MatMul(x, both_weight)
            gate, up = Split <axis = -1, num_outputs = 2> (both)
            sigmoid = Sigmoid(gate)
            silu = Mul(gate, sigmoid)
            hidden = Mul(silu, up)
            down = MatMul(hidden, down_weight)
            logits = MatMul(down, head_weight)
        }""")
    for name, weight in (
        ("both_weight", two_of_four((48, 80))),
        ("down_weight", two_of_four((40, 48))),
        ("head_weight", RNG.normal(size=(48, 70)).astype(np.float32)),
    ):
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight, name))
    return ir.from_proto(onnx.shape_inference.infer_shapes(model))


def lowered(options: dict[str, str | int | bool], masked: float) -> tuple[ir.Model, ir.Model]:
    """The neutral and the native form of the same model."""
    neutral, native = (sparse_model() for _ in range(2))
    for value in native.graph.initializers:
        native.graph.initializers[value].const_value = neutral.graph.initializers[value].const_value
    for model in (neutral, native):
        with Context() as context:
            FuseSwiGLU().run(model, context)
            Quantize(**options).run(model, context)
            if model is native:
                Lower(masked=masked).run(model, context)
    return neutral, native


def run(model: ir.Model, x: np.ndarray) -> np.ndarray:
    """On function bodies alone."""
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto)
    return onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {"x": x})[0]


@pytest.mark.parametrize(
    "options",
    [
        {"weights": "int8"},
        {"weights": "int4", "group": 16},
        {"weights": "int4", "acts": "none", "symmetric": True},
        {"weights": "fp8_e4m3", "acts": "none"},
    ],
    ids=str,
)
def test_sparse_weights_are_masked(options):
    neutral, native = lowered(options, 0.9)
    layouts = [node.attributes.get_int("layout") for node in native.graph]
    assert layouts == [MASKED_VERSION, MASKED_VERSION, LAYOUT_VERSION]
    x = RNG.normal(size=(5, 48)).astype(np.float32)
    expected = run(neutral, x)
    limit = 1e-4 * np.abs(expected).max()
    assert np.abs(run(native, x) - expected).max() < limit
    if op_library_path().is_file():
        found = session(ir.to_proto(native)).run(None, {"x": x})[0]
        assert np.abs(found - expected).max() < limit


def test_what_is_left_dense():
    """Nothing is asked for; activations of few bits; too little is saved."""
    for options, masked in (
        ({"weights": "int4"}, 0.0),
        ({"weights": "int4", "acts": "int2"}, 0.9),
        ({"weights": "int4"}, 0.5),
        ({"weights": "int2", "symmetric": True}, 0.9),
    ):
        _, native = lowered(options, masked)
        layouts = {node.attributes.get_int("layout") for node in native.graph}
        assert layouts == {LAYOUT_VERSION}, options


def weight(codes, zeros=None, table=None, bits=4) -> NeutralWeight:
    codes = np.array(codes, np.uint8)
    scales = np.ones((len(codes), 1 if zeros is None else len(zeros[0])), np.float32)
    size = codes.shape[1] // scales.shape[1]
    zeros = None if zeros is None else np.array(zeros, np.int8)
    return NeutralWeight(codes, scales, zeros, table, bits, size)


def test_kept_weights():
    kept = kept_weights(weight([[8, 9, 0, 8]]))
    assert kept.tolist() == [[False, True, True, False]]
    kept = kept_weights(weight([[8, 9, 0, 8]], zeros=[[1, -8]]))
    assert kept.tolist() == [[True, False, False, True]]
    table = np.zeros(16, np.float32)
    table[3] = 2
    assert kept_weights(weight([[3, 9]], table=table)).tolist() == [[True, False]]


def test_weights_without_a_zero_are_refused():
    assert kept_weights(weight([[8, 9]], zeros=[[8]])) is None
    assert kept_weights(weight([[3, 9]], table=np.ones(16, np.float32))) is None
    assert kept_weights(weight([[3, 9]], zeros=[[0]], table=np.zeros(16, np.float32))) is None


def test_share_of_the_dense_bytes():
    kept = np.zeros((32, 64), bool)
    assert masked_share(kept, 4) == pytest.approx(0.25 + 64 / 1024)
    assert masked_share(~kept, 4) == 1.25
