"""The Llama family as an exporter writes it: standard ops, decomposed, with a K/V cache.

The graph follows what PyTorch's exporter makes of the reference implementation (Touvron et al.,
2023, arXiv 2302.13971; grouped-query attention: Ainslie et al., 2023, arXiv 2305.13245; RoPE in
its rotate-half form: Su et al., 2021, arXiv 2104.09864). It is the *input* of the compiler, hence
nothing in it is fused.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxscript

from bitfold.models.layers import lazy_weight
from bitfold.models.lazy import Weights
from bitfold.models.llama_config import LlamaConfig
from bitfold.models.scope import Scope, drop_builder_notes

OPSET = 18
"""The lowest opset whose ReduceMean takes its axes as an input: what exporters write today."""


def build_llama(config: LlamaConfig, weights: Weights) -> ir.Model:
    """Build the ONNX model of a Llama-family decoder.

    Inputs: `input_ids` i64[batch, sequence], `attention_mask` i64[batch, past + sequence] (1 keeps,
    0 masks; padding on either side), `position_ids` i64[batch, sequence], and for each layer i
    `past_key_values.{i}.key` and `.value`, f32[batch, kv_heads, past, head_dim]. Outputs: `logits`
    f32[batch, sequence, vocab] and `present.{i}.key` and `.value`,
    f32[batch, kv_heads, past + sequence, head_dim].

    Args:
        config: the shape of the model.
        weights: the weights under the names and shapes of `config.weight_shapes()`. Arrays (memory
            maps too) and tensors are kept as they are; nothing is read before the model is run
            or saved, and then one weight at a time.

    Raises:
        ModelError: a weight is missing or has another shape than the configuration says.
    """
    return _Builder(config, weights).build()


class _Builder:
    """One construction in progress: the builder, the weights and the values that layers share."""

    def __init__(self, config: LlamaConfig, weights: Weights) -> None:
        self.config = config
        self._weights = weights
        self._shapes = config.weight_shapes()
        graph = ir.Graph([], [], nodes=[], name="main_graph", opset_imports={"": OPSET})
        self._graph = graph
        self._builder = onnxscript.GraphBuilder(graph)

    def build(self) -> ir.Model:
        c = self.config
        ids = self._input("input_ids", ir.DataType.INT64, ["batch", "sequence"])
        keep = self._input("attention_mask", ir.DataType.INT64, ["batch", "total"])
        positions = self._input("position_ids", ir.DataType.INT64, ["batch", "sequence"])
        cache_shape: list[int | str] = ["batch", c.kv_heads, "past", c.head_dim]
        past = [
            tuple(
                self._input(f"past_key_values.{i}.{kind}", ir.DataType.FLOAT, cache_shape)
                for kind in ("key", "value")
            )
            for i in range(c.layers)
        ]
        root = Scope(self._builder)
        model = root.child("model")
        self._batch = _dim(model, ids, 0)
        self._sequence = _dim(model, ids, 1)
        self._total = model.add("Add", _dim(model, past[0][0], 2), self._sequence)
        self._mask = self._attention_mask(model, keep)
        self._cos, self._sin = self._rotary(model.child("rotary_emb"), positions)

        embedding = self._weight(root, "model.embed_tokens.weight")
        x = model.child("embed_tokens").add("Gather", embedding, ids, axis=0)
        present: list[ir.Value] = []
        for i in range(c.layers):
            x, key, value = self._layer(model.child(f"layers.{i}"), i, x, *past[i])
            present += [key, value]
        x = self._norm(model.child("norm"), "model.norm.weight", x)
        head = root.child("lm_head")
        if c.tied_head:
            transposed = head.add("Transpose", embedding, perm=[1, 0])
            logits = head.add("MatMul", x, transposed, out="logits")
        else:
            logits = self._linear(head, "lm_head.weight", x, out="logits")
        _declare(logits, ["batch", "sequence", c.vocab])
        for value in present:
            _declare(value, ["batch", c.kv_heads, "total", c.head_dim])
        self._graph.outputs.extend([logits, *present])
        drop_builder_notes(list(self._graph))
        return ir.Model(self._graph, ir_version=10, producer_name="bitfold")

    def _input(self, name: str, dtype: ir.DataType, shape: list[int | str]) -> ir.Value:
        return self._builder.input(name, dtype, shape)

    def _attention_mask(self, at: Scope, keep: ir.Value) -> ir.Value:
        """Additive mask f32[batch, 1, sequence, total]: 0 where query i may see key j."""
        # The lowest finite float, not -inf: a row that padding masks whole stays free of NaN.
        lowest = float(np.finfo(np.float32).min)
        total = at.add("Squeeze", self._total, [0])
        sequence = at.add("Squeeze", self._sequence, [0])
        keys = at.add("Range", 0, total, 1)
        queries = at.add("Range", at.add("Sub", total, sequence), total, 1)
        causal = at.add("LessOrEqual", keys, at.add("Unsqueeze", queries, [1]))
        padding = at.add("Unsqueeze", at.add("Cast", keep, to=ir.DataType.BOOL), [1, 2])
        visible = at.add("And", at.add("Unsqueeze", causal, [0, 1]), padding)
        return at.add("Where", visible, 0.0, lowest)

    def _rotary(self, at: Scope, positions: ir.Value) -> tuple[ir.Value, ir.Value]:
        """cos and sin of every position's angles, f32[batch, 1, sequence, head_dim]."""
        freq = ir.tensor(self.config.inv_freq()[None, :, None])
        freq_value = at.initializer("model.rotary_emb.inv_freq", freq)
        shape = at.add("Concat", self._batch, [self.config.head_dim // 2], [1], axis=0)
        expanded = at.add("Expand", freq_value, shape)
        steps = at.add("Cast", at.add("Unsqueeze", positions, [1]), to=ir.DataType.FLOAT)
        angles = at.add("Transpose", at.add("MatMul", expanded, steps), perm=[0, 2, 1])
        both = at.add("Concat", angles, angles, axis=-1)
        cos = at.add("Unsqueeze", at.add("Cos", both), [1])
        sin = at.add("Unsqueeze", at.add("Sin", both), [1])
        return cos, sin

    def _layer(
        self, at: Scope, i: int, x: ir.Value, past_key: ir.Value, past_value: ir.Value
    ) -> tuple[ir.Value, ir.Value, ir.Value]:
        name = f"model.layers.{i}"
        h = self._norm(at.child("input_layernorm"), f"{name}.input_layernorm.weight", x)
        h, key, value = self._attention(at.child("self_attn"), i, h, past_key, past_value)
        x = at.add("Add", x, h)
        norm = "post_attention_layernorm"
        h = self._norm(at.child(norm), f"{name}.{norm}.weight", x)
        return at.add("Add", x, self._mlp(at.child("mlp"), f"{name}.mlp", h)), key, value

    def _attention(
        self, at: Scope, i: int, x: ir.Value, past_key: ir.Value, past_value: ir.Value
    ) -> tuple[ir.Value, ir.Value, ir.Value]:
        c = self.config
        heads = []
        for which, count in (("q", c.heads), ("k", c.kv_heads), ("v", c.kv_heads)):
            flat = self._linear(
                at.child(f"{which}_proj"), f"model.layers.{i}.self_attn.{which}_proj.weight", x
            )
            shape = at.add("Concat", self._batch, self._sequence, [count], [c.head_dim], axis=0)
            heads.append(at.add("Transpose", at.add("Reshape", flat, shape), perm=[0, 2, 1, 3]))
        query, key, value = heads
        query, key = self._rotate(at, query), self._rotate(at, key)
        key = at.add("Concat", past_key, key, axis=2, out=f"present.{i}.key")
        value = at.add("Concat", past_value, value, axis=2, out=f"present.{i}.value")
        keys = at.add("Transpose", self._repeat(at, key), perm=[0, 1, 3, 2])
        scores = at.add("Mul", at.add("MatMul", query, keys), float(c.head_dim**-0.5))
        probs = at.add("Softmax", at.add("Add", scores, self._mask), axis=-1)
        mixed = at.add("MatMul", probs, self._repeat(at, value))
        merged = at.add("Transpose", mixed, perm=[0, 2, 1, 3])
        shape = at.add("Concat", self._batch, self._sequence, [c.heads * c.head_dim], axis=0)
        merged = at.add("Reshape", merged, shape)
        o_proj = f"model.layers.{i}.self_attn.o_proj.weight"
        return self._linear(at.child("o_proj"), o_proj, merged), key, value

    def _rotate(self, at: Scope, x: ir.Value) -> ir.Value:
        """x·cos + rotate_half(x)·sin, with rotate_half(a, b) = (-b, a) on halves of a head."""
        half = self.config.head_dim // 2
        first = at.add("Slice", x, [0], [half], [3], [1])
        second = at.add("Slice", x, [half], [np.iinfo(np.int64).max], [3], [1])
        turned = at.add("Concat", at.add("Neg", second), first, axis=-1)
        return at.add("Add", at.add("Mul", x, self._cos), at.add("Mul", turned, self._sin))

    def _repeat(self, at: Scope, x: ir.Value) -> ir.Value:
        """Repeat K/V heads: [batch, kv_heads, total, head_dim] → [batch, heads, …]."""
        c = self.config
        times = c.heads // c.kv_heads
        if times == 1:
            return x
        wide = at.add(
            "Concat", self._batch, [c.kv_heads], [times], self._total, [c.head_dim], axis=0
        )
        flat = at.add("Concat", self._batch, [c.heads], self._total, [c.head_dim], axis=0)
        return at.add("Reshape", at.add("Expand", at.add("Unsqueeze", x, [2]), wide), flat)

    def _mlp(self, at: Scope, name: str, x: ir.Value) -> ir.Value:
        gate = self._linear(at.child("gate_proj"), f"{name}.gate_proj.weight", x)
        act = at.child("act_fn")
        gate = act.add("Mul", gate, act.add("Sigmoid", gate))
        up = self._linear(at.child("up_proj"), f"{name}.up_proj.weight", x)
        return self._linear(
            at.child("down_proj"), f"{name}.down_proj.weight", at.add("Mul", gate, up)
        )

    def _norm(self, at: Scope, name: str, x: ir.Value) -> ir.Value:
        square = at.add("Pow", x, 2.0)
        mean = at.add("ReduceMean", square, [-1], keepdims=1)
        root = at.add("Sqrt", at.add("Add", mean, self.config.norm_eps))
        scaled = at.add("Mul", x, at.add("Div", 1.0, root))
        return at.add("Mul", self._weight(at, name), scaled)

    def _linear(self, at: Scope, name: str, x: ir.Value, out: str | None = None) -> ir.Value:
        return at.add("MatMul", x, self._weight(at, name, transpose=True), out=out)

    def _weight(self, at: Scope, name: str, transpose: bool = False) -> ir.Value:
        return lazy_weight(at, self._weights, self._shapes, name, transpose)


def _dim(at: Scope, x: ir.Value, axis: int) -> ir.Value:
    """One dimension of x as i64[1], the form that Concat builds shapes from."""
    size = at.add("Gather", at.add("Shape", x), axis, axis=0)
    return at.add("Unsqueeze", size, [0])


def _declare(value: ir.Value, shape: list[int | str]) -> None:
    value.type = ir.TensorType(ir.DataType.FLOAT)
    value.shape = ir.Shape(shape)
