"""Small language models for the tests: one with a passed cache, one with a shared one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper

from bitfold.models.llama import LlamaConfig, build_llama

CONFIG = LlamaConfig(layers=2, dim=32, heads=4, kv_heads=2, head_dim=8, ffn=48, vocab=64)


def write_llama(path: Path, seed: int = 0, config: LlamaConfig = CONFIG) -> Path:
    """A decoder of the Llama family with random weights."""
    rng = np.random.default_rng(seed)
    weights = {
        name: np.ones(shape, np.float32)
        if len(shape) == 1
        else rng.standard_normal(shape).astype(np.float32) * shape[1] ** -0.5 * 2
        for name, shape in config.weight_shapes().items()
    }
    ir.save(build_llama(config, weights), path)
    return path


def write_attention_model(path: Path, shared: bool, vocab: int = 40, seed: int = 1) -> Path:
    """One layer of GroupQueryAttention between an embedding and a head; the same for both.

    With ``shared`` the metadata allows past and present to be one buffer.
    """
    heads, kv_heads, width = 2, 1, 16
    dim = heads * width
    rng = np.random.default_rng(seed)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)

    nodes = [
        helper.make_node("Gather", ["embedding", "input_ids"], ["x"]),
        helper.make_node("MatMul", ["x", "wq"], ["q"]),
        helper.make_node("MatMul", ["x", "wk"], ["k"]),
        helper.make_node("MatMul", ["x", "wv"], ["v"]),
        helper.make_node("ReduceSum", ["attention_mask", "axis"], ["sum"], keepdims=0),
        helper.make_node("Sub", ["sum", "one"], ["last"]),
        helper.make_node("Cast", ["last"], ["seqlens"], to=onnx.TensorProto.INT32),
        helper.make_node("Shape", ["attention_mask"], ["size"], start=1),
        helper.make_node("Squeeze", ["size"], ["size0"]),
        helper.make_node("Cast", ["size0"], ["total"], to=onnx.TensorProto.INT32),
        helper.make_node(
            "GroupQueryAttention",
            ["q", "k", "v", "past_key_values.0.key", "past_key_values.0.value", "seqlens", "total"],
            ["mixed", "present.0.key", "present.0.value"],
            domain="com.microsoft",
            num_heads=heads,
            kv_num_heads=kv_heads,
        ),
        helper.make_node("Add", ["x", "mixed"], ["y"]),
        helper.make_node("MatMul", ["y", "head"], ["logits"]),
    ]
    cache = ["batch", kv_heads, "past", width]
    present = ["batch", kv_heads, "total", width]
    i64, f32 = onnx.TensorProto.INT64, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "attention",
        [
            helper.make_tensor_value_info("input_ids", i64, ["batch", "sequence"]),
            helper.make_tensor_value_info("attention_mask", i64, ["batch", "total"]),
            helper.make_tensor_value_info("past_key_values.0.key", f32, cache),
            helper.make_tensor_value_info("past_key_values.0.value", f32, cache),
        ],
        [
            helper.make_tensor_value_info("logits", f32, ["batch", "sequence", vocab]),
            helper.make_tensor_value_info("present.0.key", f32, present),
            helper.make_tensor_value_info("present.0.value", f32, present),
        ],
        [
            weight("embedding", vocab, dim),
            weight("wq", dim, dim),
            weight("wk", dim, kv_heads * width),
            weight("wv", dim, kv_heads * width),
            weight("head", dim, vocab),
            numpy_helper.from_array(np.array([1]), "axis"),
            numpy_helper.from_array(np.array(1), "one"),
        ],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    if shared:
        helper.set_model_props(model, {"bitfold.kv_cache": "shared-buffer-ok"})
    onnx.save(model, path)
    return path


def write_tokenizer(folder: Path, size: int) -> Path:
    """A tokenizer of single bytes: id 0 ends a text, then as many bytes as fit, ASCII first."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = byte_level.pre_tokenize_str("".join(map(chr, range(97, 123))) + " ")[0][0]
    rest = sorted(set(pre_tokenizers.ByteLevel.alphabet()) - set(alphabet))
    vocab = {"<|end|>": 0}
    vocab.update({c: i + 1 for i, c in enumerate([*alphabet, *rest][: size - 1])})
    tokenizer = Tokenizer(models.BPE(vocab, []))
    tokenizer.pre_tokenizer = byte_level
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>"])
    path = folder / "tokenizer.json"
    tokenizer.save(str(path))
    return path
