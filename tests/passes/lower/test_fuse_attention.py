"""Attention with a cache becomes one operator; the answers stay those of the original."""

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from support.graphs import apply, assert_same, census, parse, run

from bitfold.models import tiny
from bitfold.models.llama import LlamaConfig, build_llama
from bitfold.passes.canonicalize.canonicalize import Canonicalize
from bitfold.passes.fuse.merge_siblings import MergeSiblings
from bitfold.passes.lower.fuse_attention import FuseAttention
from bitfold.runtime.errors import RecipeError
from bitfold.runtime.session import Session

SIZES = {"layers": 2, "dim": 32, "heads": 4, "kv_heads": 2, "head_dim": 16, "ffn": 48, "vocab": 64}


def decoder(**changes):
    config = LlamaConfig(**{**SIZES, **changes})
    rng = np.random.default_rng(3)
    weights = {
        name: (rng.standard_normal(shape) * 0.3).astype(np.float32)
        for name, shape in config.weight_shapes().items()
    }
    return config, build_llama(config, weights)


def feeds_of(config, past, new, kept, seed=0):
    """``new`` tokens after ``past``; row b keeps the first kept[b] of all, as right padding."""
    rng = np.random.default_rng(seed)
    batch = len(kept)
    feeds = {
        "input_ids": rng.integers(0, config.vocab, (batch, new)),
        "attention_mask": (np.arange(past + new) < np.array(kept)[:, None]).astype(np.int64),
        "position_ids": np.tile(np.arange(past, past + new), (batch, 1)),
    }
    for i in range(config.layers):
        for kind in ("key", "value"):
            shape = (batch, config.kv_heads, past, config.head_dim)
            feeds[f"past_key_values.{i}.{kind}"] = rng.standard_normal(shape).astype(np.float32)
    return feeds


def fused(model, *items, target="native"):
    apply(Canonicalize(), model)
    for item in items:
        apply(item, model)
    return apply(FuseAttention(max_positions=64, target=target), model)


def compare(before, after, feeds, new):
    """Logits and caches agree wherever the tokens are not padding."""
    keep = feeds["attention_mask"].astype(bool)
    for name, expected in before.items():
        found = after[name]
        assert found.shape == expected.shape
        if name == "logits":
            expected, found = expected[keep[:, -new:]], found[keep[:, -new:]]
        else:
            expected, found = (a.transpose(0, 2, 1, 3)[keep] for a in (expected, found))
        scale = np.abs(expected).max()
        assert np.abs(expected - found).max() <= 2e-5 * scale, name


CASES = [(0, 6, (6, 6)), (0, 6, (6, 3)), (0, 1, (1,)), (5, 1, (6, 6)), (4, 3, (7,))]


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("target", ["native", "ort"])
def test_prompts_padding_and_decoding(kv_heads, packed, target):
    config, model = decoder(kv_heads=kv_heads)
    _, original = decoder(kv_heads=kv_heads)
    entry = fused(model, *([MergeSiblings()] if packed else []), target=target)
    assert len(entry.changes) == 2
    for past, new, kept in CASES:
        feeds = feeds_of(config, past, new, kept)
        compare(run(original, feeds), run(model, feeds), feeds, new)


OPERATORS = {"native": "FusedAttention", "ort": "GroupQueryAttention"}


@pytest.mark.parametrize("target", OPERATORS)
def test_the_graph_that_comes_out(target):
    _, model = decoder()
    inputs = [value.name for value in model.graph.inputs]
    entry = fused(model, MergeSiblings(), target=target)
    found = census(model)
    assert found[OPERATORS[target]] == 2
    assert found["Split"] == 2  # gate and up; that of q, k and v went
    assert {"Attention", "RotaryEmbedding", "Cos", "Where", "Reshape"}.isdisjoint(found)
    casts = 2 if target == "ort" else 0
    assert (found["ReduceSum"], found["Cast"], found["Shape"]) == (1, casts, 1)  # for all layers
    assert [value.name for value in model.graph.inputs] == inputs  # position_ids too
    first, second = (n for n in model.graph if n.op_type == OPERATORS[target])
    names = [value.name if value is not None else "" for value in first.inputs]
    assert names[0].endswith("q_proj/MatMul+k_proj/MatMul+v_proj/MatMul_output_0")
    lengths = {
        "native": ["bitfold.lengths", "bitfold.total_length"],
        "ort": ["bitfold.seqlens_k", "bitfold.total_sequence_length"],
    }
    assert names[1:9] == [
        "",
        "",
        "past_key_values.0.key",
        "past_key_values.0.value",
        *lengths[target],
        "bitfold.rotary.cos",
        "bitfold.rotary.sin",
    ]
    assert first.inputs[5:] == second.inputs[5:]
    assert [v.name for v in first.outputs[1:]] == ["present.0.key", "present.0.value"]
    assert tuple(model.graph.initializers["bitfold.rotary.cos"].shape) == (64, 8)
    assert model.metadata_props["bitfold.kv_cache"] == "shared-buffer-ok"
    assert any("padding on the right" in note for note in entry.notes)


def test_scaled_rotary_frequencies_are_in_the_tables():
    factors = (1.0, 1.0, 2.0, 2.0, 4.0, 4.0, 8.0, 8.0)
    config, model = decoder(rope_factors=factors, rope_base=500.0)
    _, original = decoder(rope_factors=factors, rope_base=500.0)
    fused(model)
    angles = np.arange(64)[:, None] * config.inv_freq().astype(np.float64)
    cos = model.graph.initializers["bitfold.rotary.cos"].const_value.numpy()
    np.testing.assert_allclose(cos, np.cos(angles), atol=1e-5)
    feeds = feeds_of(config, 9, 1, (10,))
    compare(run(original, feeds), run(model, feeds), feeds, 1)


@pytest.mark.parametrize("target", ["native", "native, its body", "ort"])
def test_a_shared_buffer_gives_the_same_logits(tmp_path, target):
    """Past and present are one buffer of 16 positions, written in place token by token."""
    config, model = decoder()
    _, original = decoder()
    fused(model, MergeSiblings(), target=target.partition(",")[0])
    ids = np.random.default_rng(1).integers(0, config.vocab, (1, 7))
    feeds = feeds_of(config, 0, 7, (7,))
    feeds["input_ids"] = ids
    expected = run(original, feeds)["logits"]
    ir.save(model, tmp_path / "m.onnx")
    session = Session(tmp_path / "m.onnx", library=target == "native").ort
    shape = (1, config.kv_heads, 16, config.head_dim)
    caches = {
        f"{i}.{kind}": ort.OrtValue.ortvalue_from_numpy(np.full(shape, np.nan, np.float32))
        for i in range(config.layers)
        for kind in ("key", "value")
    }
    logits = []
    for start, stop in ((0, 4), (4, 5), (5, 6), (6, 7)):
        binding = session.io_binding()
        binding.bind_cpu_input("input_ids", ids[:, start:stop])
        binding.bind_cpu_input("attention_mask", np.ones((1, stop), np.int64))
        binding.bind_cpu_input("position_ids", np.arange(start, stop)[None])
        for name, cache in caches.items():
            binding.bind_ortvalue_input(f"past_key_values.{name}", cache)
            binding.bind_ortvalue_output(f"present.{name}", cache)
        binding.bind_output("logits")
        session.run_with_iobinding(binding)
        logits.append(binding.get_outputs()[-1].numpy())
    np.testing.assert_allclose(np.concatenate(logits, 1), expected, atol=2e-5)


def test_max_positions_comes_from_the_option_the_metadata_or_the_default():
    for option, metadata, rows in ((0, None, 8192), (0, "100", 100), (32, "100", 32)):
        _, model = decoder(layers=1)
        apply(Canonicalize(), model)
        if metadata:
            model.metadata_props["bitfold.max_positions"] = metadata
        apply(FuseAttention(max_positions=option), model)
        assert model.graph.initializers["bitfold.rotary.cos"].shape[0] == rows
    with pytest.raises(RecipeError, match="found -1"):
        apply(FuseAttention(max_positions=-1), model)


def test_heads_that_the_op_cannot_rotate_are_refused():
    _, model = decoder(head_dim=24)
    entry = fused(model, target="ort")
    assert census(model)["Attention"] == 2
    assert "multiple of 16" in entry.skips[0].text
    _, model = decoder(head_dim=258, layers=1)
    entry = fused(model)
    assert census(model)["Attention"] == 1
    assert "heads of 258: expected at most 256" in entry.skips[0].text


def test_heads_of_any_even_size_are_rotated():
    config, model = decoder(head_dim=24)
    _, original = decoder(head_dim=24)
    fused(model)
    assert census(model)["FusedAttention"] == 2
    feeds = feeds_of(config, 5, 1, (6,))
    compare(run(original, feeds), run(model, feeds), feeds, 1)


def replaced_mask(edit):
    """A canonical decoder whose mask's comparison is edited."""
    _, model = decoder(layers=1)
    edit(next(node for node in model.graph if node.op_type == "LessOrEqual"))
    apply(Canonicalize(), model)
    return model


def test_a_mask_that_is_not_causal_is_refused():
    def backwards(node):
        left, right = node.inputs
        node.replace_input_with(0, right)
        node.replace_input_with(1, left)

    model = replaced_mask(backwards)
    entry = apply(FuseAttention(), model)
    assert census(model)["Attention"] == 1
    assert "not the causal mask" in entry.skips[0].text


def test_a_window_is_refused():
    """Causal, but a query sees only the three positions before it."""

    def window(node):
        graph, (keys, queries) = node.graph, node.inputs
        three = ir.Value(name="three", const_value=ir.tensor(np.array(3), name="three"))
        graph.register_initializer(three)
        tape = ir.tape.Tape()
        near = tape.op("Less", [tape.op("Sub", [queries, keys]), three])
        both = tape.op("And", [node.outputs[0], near])
        graph.insert_after(node, list(tape.nodes))
        for user, index in list(node.outputs[0].uses()):
            if user is not both.producer():
                user.replace_input_with(index, both)

    model = replaced_mask(window)
    entry = apply(FuseAttention(), model)
    assert census(model)["Attention"] == 1
    assert "not the causal mask" in entry.skips[0].text


def test_positions_that_depend_on_the_tokens_are_refused():
    _, model = decoder(layers=1)
    positions, ids = model.graph.inputs[2], model.graph.inputs[0]
    tape = ir.tape.Tape()
    mixed = tape.op("Add", [positions, ids])
    for user, index in list(positions.uses()):
        if user is not mixed.producer():
            user.replace_input_with(index, mixed)
    model.graph.insert_before(model.graph[0], list(tape.nodes))
    apply(Canonicalize(), model)
    entry = apply(FuseAttention(), model)
    assert census(model)["Attention"] == 1
    assert entry.skips[0].text


@pytest.mark.parametrize("target", ["native", "ort"])
@pytest.mark.parametrize("name", ["bert", "vit"])
def test_attention_without_a_cache_reads_projections_directly(name, target):
    model = tiny.TINY[name](3)
    feeds = tiny.sample_feeds(name, 3)
    before = run(model, feeds)
    apply(Canonicalize(), model)
    apply(MergeSiblings(), model)
    entry = apply(FuseAttention(target=target), model)
    assert len(entry.changes) == 2
    op, key = (
        ("FusedAttention", "num_heads") if target == "native" else ("Attention", "q_num_heads")
    )
    attentions = [node for node in model.graph if node.op_type == op]
    assert [n.attributes.get_int(key, 0) for n in attentions] == [4, 4]
    assert {n.inputs[0].producer().op_type for n in attentions} == {"Split"}
    # What is left of each is the patches' reshape in the ViT.
    assert census(model)["Transpose"] == (1 if name == "vit" else 0)
    assert_same(before, run(model, feeds))
    assert "bitfold.kv_cache" not in model.metadata_props


def test_attention_that_is_not_between_heads_is_left():
    model = parse(
        """g (float[b, 2, s, 8] q, float[b, 2, t, 8] k, float[b, 2, t, 8] v)
        => (float[b, 2, s, 8] y) { y = Attention(q, k, v) }"""
    )
    entry = apply(FuseAttention(), model)
    assert entry.status == "unchanged"
    assert "not between the reshapes" in entry.skips[0].text
