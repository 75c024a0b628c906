"""Quantize and lower small graphs; run the results on their function bodies alone."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from bitfold.passes.core.context import Context
from bitfold.passes.fuse.fuse_swiglu import FuseSwiGLU
from bitfold.passes.lower.lower import Lower
from bitfold.passes.quantize.quantize import Quantize
from bitfold.runtime.errors import ModelError

RNG = np.random.default_rng(0)


def gated_model() -> ir.Model:
    """Embedding, SwiGLU MLP with biases, and a head tied to the embedding."""
    model = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["": 23]>
        gated (int64[b, s] ids) => (float[b, s, 70] logits) {
            x = Gather(table, ids)
            both = MatMul(x, both_weight)
            biased = Add(both_bias, both)
            gate, up = Split <axis = -1, num_outputs = 2> (biased)
            sigmoid = Sigmoid(gate)
            silu = Mul(gate, sigmoid)
            hidden = Mul(silu, up)
            down = MatMul(hidden, down_weight)
            turned = Transpose <perm = [1, 0]> (table)
            logits = MatMul(down, turned)
        }""")
    for name, shape in (
        ("table", (70, 48)),
        ("both_weight", (48, 80)),
        ("both_bias", (80,)),
        ("down_weight", (40, 48)),
    ):
        array = RNG.normal(size=shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ir.from_proto(onnx.shape_inference.infer_shapes(model))


def run(model: ir.Model, feeds: dict[str, np.ndarray]) -> np.ndarray:
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto)
    return onnxruntime.InferenceSession(proto.SerializeToString()).run(None, feeds)[0]


def ops(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize(
    "options",
    [
        {"weights": "int8"},
        {"weights": "int4", "group": 16, "symmetric": True},
        {"weights": "int3", "act_granularity": "token"},
        {"weights": "int2", "acts": "none", "ranges": "minmax"},
        {"weights": "ternary", "group": 0, "embeddings": "int8"},
        {"weights": "int5", "scales": "f32"},
        {"weights": "int2", "acts": "int2"},
        {"weights": "binary", "acts": "int1", "embeddings": "int8"},
        {"weights": "int4", "acts": "int3", "act_granularity": "token"},
        {"weights": "ternary", "acts": "int1", "act_granularity": "token"},
        {"weights": "int8", "acts": "int4", "group": 0},
    ],
    ids=str,
)
def test_lowering_keeps_what_quantizing_made(options):
    model = gated_model()
    feeds = {"ids": RNG.integers(0, 70, (2, 5))}
    with Context() as context:
        assert FuseSwiGLU().run(model, context)
        assert Quantize(**options).run(model, context)
        neutral = run(model, feeds)
        assert Lower().run(model, context)
        native = run(model, feeds)
    assert np.allclose(native, neutral, rtol=1e-4, atol=1e-4 * np.abs(neutral).max())
    assert ops(model) == ["LowBitGather", "LowBitMatMul", "LowBitMatMul", "LowBitMatMul"]
    packed = [name for name in model.graph.initializers if name.endswith(".packed")]
    assert len(packed) == 3, "table and head share one copy"
    assert not any(
        "float" in str(v.dtype).lower() and len(v.shape) == 2
        for v in model.graph.initializers.values()
    )


def test_eight_bits_are_close_to_float():
    model = gated_model()
    feeds = {"ids": RNG.integers(0, 70, (1, 9))}
    before = run(model, feeds)
    with Context() as context:
        Quantize(weights="int8").run(model, context)
    after = run(model, feeds)
    assert np.square(after - before).sum() < 2e-3 * np.square(before).sum()
    assert not np.array_equal(after, before)


def test_swiglu_without_a_merged_matmul_is_left_alone():
    model = gated_model()
    split = next(node for node in model.graph if node.op_type == "Split")
    sizes = ir.Value(name="sizes", const_value=ir.tensor(np.array([30, 50]), name="sizes"))
    model.graph.register_initializer(sizes)
    model.graph.remove(next(n for n in model.graph if n.op_type == "Mul"), safe=False)
    with Context() as context:
        assert not FuseSwiGLU().run(model, context)
    assert split.graph is model.graph


def test_excluded_sites_stay_float_and_are_listed():
    model = gated_model()
    with Context() as context:
        Quantize(exclude=("down*",)).run(model, context)
        skipped = {note.site: note.text for note in context.entry.skips}
    assert "down_weight" in model.graph.initializers
    assert list(skipped.values()) == ["excluded by the recipe"]


def test_weights_that_are_not_finite_are_named():
    model = gated_model()
    weight = model.graph.initializers["down_weight"]
    broken = weight.const_value.numpy().copy()
    broken[3, 4] = np.nan
    weight.const_value = ir.tensor(broken, name="down_weight")
    with Context() as context, pytest.raises(ModelError, match=r"'down_weight'.*1 NaN"):
        Quantize().run(model, context)
