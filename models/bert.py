"""The BERT family of text encoders as an exporter writes it, with a pooled embedding.

Architecture: Devlin et al., 2018, arXiv 1810.04805; the pooling: Reimers and Gurevych, 2019,
arXiv 1908.10084. It is the *input* of the compiler: layer norms are one op, as exporters write
them from opset 17 on, the rest is decomposed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bitfold.models.layers import gelu, lazy_weight
from bitfold.models.lazy import Weights
from bitfold.models.scope import Scope
from bitfold.models.tiny.parts import close_graph, dim, open_graph

OPSET = 23


@dataclass(frozen=True)
class BertConfig:
    """The shape of a BERT encoder.

    Attributes:
        layers: number of encoder blocks.
        dim: width of the residual stream.
        heads: attention heads; must divide `dim`.
        ffn: width of the MLP's hidden layer.
        vocab: number of tokens.
        positions: the longest sequence, in tokens.
        types: number of token types.
        norm_eps: epsilon of every LayerNorm.
    """

    layers: int
    dim: int
    heads: int
    ffn: int
    vocab: int
    positions: int = 512
    types: int = 2
    norm_eps: float = 1e-12

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Every weight by its name and shape; a projection is [out, in], as in checkpoints."""
        shapes: dict[str, tuple[int, ...]] = {
            "embeddings.word_embeddings.weight": (self.vocab, self.dim),
            "embeddings.position_embeddings.weight": (self.positions, self.dim),
            "embeddings.token_type_embeddings.weight": (self.types, self.dim),
        }
        linears = {
            "attention.self.query": (self.dim, self.dim),
            "attention.self.key": (self.dim, self.dim),
            "attention.self.value": (self.dim, self.dim),
            "attention.output.dense": (self.dim, self.dim),
            "intermediate.dense": (self.ffn, self.dim),
            "output.dense": (self.dim, self.ffn),
        }
        norms = ["embeddings.LayerNorm"]
        for i in range(self.layers):
            layer = f"encoder.layer.{i}"
            for name, shape in linears.items():
                shapes[f"{layer}.{name}.weight"] = shape
                shapes[f"{layer}.{name}.bias"] = shape[:1]
            norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
        for norm in norms:
            shapes[f"{norm}.weight"] = shapes[f"{norm}.bias"] = (self.dim,)
        return shapes


def build_bert(config: BertConfig, weights: Weights) -> ir.Model:
    """Build the ONNX model of a sentence encoder.

    Inputs `input_ids`, `attention_mask` (1 keeps, 0 masks) and `token_type_ids`:
    i64[batch, sequence]. Outputs `last_hidden_state` f32[batch, sequence, dim], and
    `sentence_embedding` f32[batch, dim]: its mean over the kept tokens, of length 1.

    Args:
        config: the shape of the model.
        weights: the weights under the names and shapes of `config.weight_shapes()`; nothing is
            read before the model is run or saved, and then one weight at a time.

    Raises:
        ModelError: a weight is missing or has another shape than the configuration says.
    """
    return _Builder(config, weights).build()


class _Builder:
    """One construction in progress: the builder, the weights and the values that layers share."""

    def __init__(self, config: BertConfig, weights: Weights) -> None:
        self.config = config
        self._weights = weights
        self._shapes = config.weight_shapes()
        self._builder, self._root = open_graph(OPSET)

    def build(self) -> ir.Model:
        c, root = self.config, self._root
        axes: list[int | str] = ["batch", "sequence"]
        names = ("input_ids", "attention_mask", "token_type_ids")
        ids, keep, types = (self._builder.input(n, ir.DataType.INT64, axes) for n in names)
        self._batch, self._sequence = dim(root, ids, 0), dim(root, ids, 1)
        self._mask = self._attention_mask(root, keep)
        x = self._embed(root.child("embeddings"), ids, types)
        for i in range(c.layers):
            out = "last_hidden_state" if i == c.layers - 1 else None
            x = self._layer(root.child(f"encoder/layer.{i}"), f"encoder.layer.{i}", x, out)
        pooled = self._pool(root.child("pooling"), x, keep)
        return close_graph(self._builder, [(x, [*axes, c.dim]), (pooled, ["batch", c.dim])])

    def _attention_mask(self, at: Scope, keep: ir.Value) -> ir.Value:
        """Additive mask f32[batch, 1, 1, sequence]: 0 for kept keys."""
        kept = at.add("Cast", at.add("Unsqueeze", keep, [1, 2]), to=ir.DataType.FLOAT)
        # The lowest finite float, not -inf: a row that padding masks whole stays free of NaN.
        return at.add("Mul", at.add("Sub", 1.0, kept), float(np.finfo(np.float32).min))

    def _embed(self, at: Scope, ids: ir.Value, types: ir.Value) -> ir.Value:
        all_positions = ir.tensor(np.arange(self.config.positions, dtype=np.int64)[None])
        positions = at.initializer("embeddings.position_ids", all_positions)
        positions = at.add("Slice", positions, [0], self._sequence, [1], [1])
        x = self._table(at, "word", ids)
        x = at.add("Add", x, self._table(at, "token_type", types))
        x = at.add("Add", x, self._table(at, "position", positions))
        return self._norm(at.child("LayerNorm"), "embeddings.LayerNorm", x)

    def _table(self, at: Scope, kind: str, index: ir.Value) -> ir.Value:
        table = self._weight(at, f"embeddings.{kind}_embeddings.weight")
        return at.child(f"{kind}_embeddings").add("Gather", table, index, axis=0)

    def _layer(self, at: Scope, name: str, x: ir.Value, out: str | None) -> ir.Value:
        h = self._attention(at.child("attention/self"), f"{name}.attention.self", x)
        x = self._add_norm(at.child("attention/output"), f"{name}.attention.output", h, x)
        h = self._linear(at.child("intermediate/dense"), f"{name}.intermediate.dense", x)
        h = gelu(at.child("intermediate/intermediate_act_fn"), h)
        return self._add_norm(at.child("output"), f"{name}.output", h, x, out)

    def _attention(self, at: Scope, name: str, x: ir.Value) -> ir.Value:
        c = self.config
        size = c.dim // c.heads
        split = at.add("Concat", self._batch, self._sequence, [c.heads], [size], axis=0)
        heads = []
        for kind, perm in (("query", [0, 2, 1, 3]), ("key", [0, 2, 3, 1]), ("value", [0, 2, 1, 3])):
            flat = self._linear(at.child(kind), f"{name}.{kind}", x)
            heads.append(at.add("Transpose", at.add("Reshape", flat, split), perm=perm))
        query, key, value = heads
        scores = at.add("Div", at.add("MatMul", query, key), math.sqrt(size))
        probs = at.add("Softmax", at.add("Add", scores, self._mask), axis=-1)
        mixed = at.add("Transpose", at.add("MatMul", probs, value), perm=[0, 2, 1, 3])
        merged = at.add("Concat", self._batch, self._sequence, [c.dim], axis=0)
        return at.add("Reshape", mixed, merged)

    def _pool(self, at: Scope, x: ir.Value, keep: ir.Value) -> ir.Value:
        kept = at.add("Cast", at.add("Unsqueeze", keep, [-1]), to=ir.DataType.FLOAT)
        total = at.add("ReduceSum", at.add("Mul", x, kept), [1], keepdims=0)
        count = at.add("Clip", at.add("ReduceSum", kept, [1], keepdims=0), 1e-9)
        mean = at.add("Div", total, count)
        length = at.add("Clip", at.add("ReduceL2", mean, [1], keepdims=1), 1e-12)
        return at.add("Div", mean, length, out="sentence_embedding")

    def _add_norm(
        self, at: Scope, name: str, h: ir.Value, x: ir.Value, out: str | None = None
    ) -> ir.Value:
        """Post-norm: a projection, the residual, then the LayerNorm of their sum."""
        h = self._linear(at.child("dense"), f"{name}.dense", h)
        norm = f"{name}.LayerNorm"
        return self._norm(at.child("LayerNorm"), norm, at.add("Add", h, x), out)

    def _norm(self, at: Scope, name: str, x: ir.Value, out: str | None = None) -> ir.Value:
        gain, bias = self._weight(at, f"{name}.weight"), self._weight(at, f"{name}.bias")
        eps = self.config.norm_eps
        return at.add("LayerNormalization", x, gain, bias, out=out, axis=-1, epsilon=eps)

    def _linear(self, at: Scope, name: str, x: ir.Value) -> ir.Value:
        y = at.add("MatMul", x, self._weight(at, f"{name}.weight", transpose=True))
        return at.add("Add", self._weight(at, f"{name}.bias"), y)

    def _weight(self, at: Scope, name: str, transpose: bool = False) -> ir.Value:
        return lazy_weight(at, self._weights, self._shapes, name, transpose)
