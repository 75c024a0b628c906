"""Whole models: opsets, names, memory-mapped weights, tied heads, and the rotary embedding."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from support.graphs import apply, assert_same, census, parse, run, text_of

from bitfold.models import tiny
from bitfold.models.llama import LlamaConfig, build_llama
from bitfold.passes.canonicalize.canonicalize import Canonicalize
from bitfold.runtime.errors import UnsupportedError

EXPECTED = {
    "decoder": {"RMSNormalization": 5, "RotaryEmbedding": 4, "Attention": 2},
    "bert": {"LayerNormalization": 5, "Gelu": 2, "Attention": 2, "Gemm": 1},
    "vit": {"LayerNormalization": 5, "Gelu": 2, "Attention": 2, "Split": 2},
    "cnn": {"BatchNormalization": 11, "Conv": 15},
}
GONE = {"ReduceMean", "Sqrt", "Softmax", "Erf", "Tanh", "Pow", "Slice"}


@pytest.mark.parametrize("name", list(tiny.TINY))
def test_tiny_models_keep_their_outputs_and_names(name):
    model = tiny.TINY[name](5)
    feeds = tiny.sample_feeds(name, 5)
    before = run(model, feeds)
    names = [[v.name for v in values] for values in (model.graph.inputs, model.graph.outputs)]
    apply(Canonicalize(), model)
    assert names == [[v.name for v in each] for each in (model.graph.inputs, model.graph.outputs)]
    assert_same(before, run(model, feeds))
    found = census(model)
    assert {op: found[op] for op in EXPECTED[name]} == EXPECTED[name]
    left = set(found) & GONE
    assert left <= {"Tanh", "Slice"}  # BERT's pooler and its positions
    assert all(v.shape is not None for node in model.graph for v in node.outputs)


@pytest.mark.parametrize("name", list(tiny.TINY))
def test_doing_it_again_changes_nothing(name):
    model = tiny.TINY[name](5)
    apply(Canonicalize(), model)
    first = text_of(model)
    entry = apply(Canonicalize(), model)
    assert text_of(model) == first
    assert entry.status == "unchanged"
    assert not entry.changes


def test_the_same_model_gives_the_same_bytes():
    protos = []
    for _ in range(2):
        model = tiny.TINY["decoder"](5)
        apply(Canonicalize(), model)
        protos.append(ir.to_proto(model).SerializeToString(deterministic=True))
    assert protos[0] == protos[1]


def test_weights_stay_where_they_are_and_a_tied_head_is_not_copied(tmp_path):
    model = tiny.TINY["decoder"](5)
    ir.save(model, tmp_path / "m.onnx", external_data="m.data", size_threshold_bytes=64)
    model = ir.load(tmp_path / "m.onnx")
    name = "model.embed_tokens.weight"
    tensor = model.graph.initializers[name].const_value
    assert isinstance(tensor, ir.ExternalTensor)
    apply(Canonicalize(), model)
    assert model.graph.initializers[name].const_value is tensor
    large = [v for v in model.graph.initializers.values() if v.const_value.size > 1024]
    assert all(isinstance(value.const_value, ir.ExternalTensor) for value in large)
    assert sorted(u.op_type for u, _ in model.graph.initializers[name].uses()) == [
        "Gather",
        "Transpose",
    ]


OLD = """g (float[b, 6] x) => (float[b, 6] y) {
    up = Unsqueeze<axes = [1]>(x)
    sum = ReduceSum<axes = [-1], keepdims = 1>(up)
    shifted = Add(up, sum)
    flat = Squeeze<axes = [1]>(shifted)
    p = Softmax<axis = 1>(flat)
    d, mask = Dropout(p)
    m = MatMul(d, w)
    clipped = Clip(m, low, high)
    y = Add(clipped, bias)
}"""


@pytest.mark.parametrize("opset", [11, 12])
def test_old_opsets(opset):
    constants = {
        "w": np.random.default_rng(0).standard_normal((6, 6)).astype(np.float32),
        "bias": np.ones(6, np.float32),
        "low": np.float32(-1).reshape(()),
        "high": np.float32(1).reshape(()),
    }
    model = parse(OLD, opset=opset, **constants)
    feeds = {"x": np.random.default_rng(1).standard_normal((3, 6)).astype(np.float32)}
    before = run(model, feeds)
    entry = apply(Canonicalize(), model)
    assert model.opset_imports[""] == 23
    assert_same(before, run(model, feeds))
    assert f"opset {opset} converted to 23" in entry.notes
    assert "Dropout" not in census(model)
    onnx.checker.check_model(ir.to_proto(model))


def test_opsets_that_are_too_old_are_refused():
    model = parse("g (float[b, 6] x) => (float[b, 6] y) { y = Relu(x) }")
    model.opset_imports[""] = 5
    with pytest.raises(UnsupportedError, match="expected 6 or newer, found 5"):
        apply(Canonicalize(), model)


def decoder(**changes):
    sizes = {"layers": 1, "dim": 32, "heads": 4, "kv_heads": 2, "head_dim": 8, "ffn": 48}
    config = LlamaConfig(vocab=64, **{**sizes, **changes})
    rng = np.random.default_rng(3)
    weights = {
        name: (rng.standard_normal(shape) * 0.3).astype(np.float32)
        for name, shape in config.weight_shapes().items()
    }
    return config, build_llama(config, weights)


def decoder_feeds(config, batch, new, past, seed=0):
    rng = np.random.default_rng(seed)
    feeds = {
        "input_ids": rng.integers(0, config.vocab, (batch, new)),
        "attention_mask": np.ones((batch, past + new), np.int64),
        "position_ids": np.tile(np.arange(past, past + new), (batch, 1)),
    }
    for i in range(config.layers):
        for kind in ("key", "value"):
            shape = (batch, config.kv_heads, past, config.head_dim)
            feeds[f"past_key_values.{i}.{kind}"] = rng.standard_normal(shape).astype(np.float32)
    return feeds


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize(("batch", "new", "past"), [(2, 5, 0), (1, 1, 4), (2, 3, 4)])
def test_a_decoder_with_its_cache(kv_heads, batch, new, past):
    config, model = decoder(kv_heads=kv_heads)
    feeds = decoder_feeds(config, batch, new, past)
    # Any positions will do: the rotation must not assume that they count up.
    feeds["position_ids"] = feeds["position_ids"][:, ::-1] * 3
    before = run(model, feeds)
    apply(Canonicalize(), model)
    found = census(model)
    assert (found["RotaryEmbedding"], found["Attention"]) == (2, 1)
    assert_same(before, run(model, feeds))
    attention = next(node for node in model.graph if node.op_type == "Attention")
    assert [value.name for value in attention.outputs[1:]] == ["present.0.key", "present.0.value"]


ROPE = """g (float[b, 2, s, 8] x, float[b, s, 4] angles) => (float[b, 2, s, 8] y) {
    one = Constant<value_ints = [1]>()
    zero = Constant<value_ints = [0]>()
    four = Constant<value_ints = [CUT]>()
    end = Constant<value_ints = [9223372036854775807]>()
    three = Constant<value_ints = [3]>()
    both = Concat<axis = -1>(angles, angles)
    cos0 = Cos(both)
    sin0 = Sin(both)
    k = Constant<value_float = 1.25>()
    cos1 = Mul(cos0, k)
    sin1 = Mul(k, sin0)
    cos = Unsqueeze(cos1, one)
    sin = Unsqueeze(sin1, one)
    first = Slice(x, zero, four, three, one)
    second = Slice(x, four, end, three, one)
    minus = Neg(second)
    turned = Concat<axis = -1>(minus, first)
    a = Mul(x, cos)
    c = Mul(sin, turned)
    y = Add(c, a)
}"""


def test_rotary_embedding_with_scaled_cosines():
    model = parse(ROPE.replace("CUT", "4"))
    rng = np.random.default_rng(2)
    feeds = {
        "x": rng.standard_normal((2, 2, 5, 8)).astype(np.float32),
        "angles": rng.standard_normal((2, 5, 4)).astype(np.float32),
    }
    before = run(model, feeds)
    apply(Canonicalize(), model)
    assert census(model) == {"Cos": 1, "Sin": 1, "Mul": 2, "RotaryEmbedding": 1}
    assert_same(before, run(model, feeds))


def test_rotary_embedding_with_unequal_halves_is_declined():
    model = parse(ROPE.replace("CUT", "3"))
    entry = apply(Canonicalize(), model)
    assert "RotaryEmbedding" not in census(model)
    assert "not cut in two equal halves" in entry.skips[0].text


def test_golden_mlp():
    """The graph of one gated MLP behind its norm, before and after."""
    text = """g (float[b, s, 8] x) => (float[b, s, 8] y) {
        two = Constant<value_float = 2.0>()
        eps = Constant<value_float = 1e-5>()
        last = Constant<value_ints = [-1]>()
        sq = Pow(x, two)
        m = ReduceMean<keepdims = 1>(sq, last)
        me = Add(m, eps)
        r = Sqrt(me)
        n = Div(x, r)
        h = Mul(n, gain)
        gate = MatMul(h, w_gate)
        again = Identity(gate)
        act = Sigmoid(again)
        silu = Mul(act, gate)
        up = MatMul(h, w_up)
        both = Mul(silu, up)
        down = MatMul(both, w_down)
        y = Add(x, down)
    }"""
    rng = np.random.default_rng(0)
    shapes = {"gain": (8,), "w_gate": (8, 12), "w_up": (8, 12), "w_down": (12, 8)}
    weights = {name: rng.standard_normal(s).astype(np.float32) for name, s in shapes.items()}
    model = parse(text, **weights)
    apply(Canonicalize(), model)
    sigmoid = next(node for node in model.graph if node.op_type == "Sigmoid").outputs[0].name
    assert text_of(model) == [
        "h = RMSNormalization(x, gain)",
        "gate = MatMul(h, w_gate)",
        f"{sigmoid} = Sigmoid(gate)",
        f"silu = Mul(gate, {sigmoid})",
        "up = MatMul(h, w_up)",
        "both = Mul(silu, up)",
        "down = MatMul(both, w_down)",
        "y = Add(x, down)",
    ]
