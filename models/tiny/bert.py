"""A tiny BERT: post-LN encoder with token types, erf GELU and an attention mask.

Written as PyTorch's TorchScript exporter writes it at opset 17 with LayerNorm decomposed
(architecture: Devlin et al., 2018, arXiv 1810.04805).
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from bitfold.models.layers import gelu
from bitfold.models.scope import Scope
from bitfold.models.tiny.draw import Draw, rms
from bitfold.models.tiny.parts import close_graph, dim, gemm, linear, open_graph, weight

LAYERS, DIM, HEADS, FFN, VOCAB, POSITIONS, TYPES = 2, 64, 4, 128, 256, 64, 2
HEAD_DIM = DIM // HEADS


def bert(seed: int, outliers: bool = True) -> ir.Model:
    """Builds the encoder.

    Inputs `input_ids`, `attention_mask`, `token_type_ids`: i64[batch, sequence]. Outputs
    `last_hidden_state` f32[batch, sequence, 64] and `pooler_output` f32[batch, 64].

    Args:
        seed: determines every weight.
        outliers: whether the residual stream has outlier channels.
    """
    return _Builder(Draw(seed, 2), outliers).build()


class _Builder:
    def __init__(self, draw: Draw, outliers: bool) -> None:
        self.draw = draw
        self.scales = draw.channel_scales(DIM, outliers)
        self.builder, self.root = open_graph(17)

    def build(self) -> ir.Model:
        shape = ["batch", "sequence"]
        names = ("input_ids", "attention_mask", "token_type_ids")
        ids, keep, types = (self.builder.input(n, ir.DataType.INT64, shape) for n in names)
        self.shape = [dim(self.root, ids, 0), dim(self.root, ids, 1)]
        mask = self.root.add("Cast", self.root.add("Unsqueeze", keep, [1, 2]), to=1)
        mask = self.root.add("Sub", 1.0, mask)
        self.mask = self.root.add("Mul", mask, float(np.finfo(np.float32).min))
        x = self._embed(self.root.child("embeddings"), ids, types)
        for i in range(LAYERS):
            out = "last_hidden_state" if i == LAYERS - 1 else None
            x = self._layer(self.root.child(f"encoder/layer.{i}"), f"encoder.layer.{i}", x, out)
        at = self.root.child("pooler")
        first = at.add("Gather", x, 0, axis=1)
        w, bias = self._reader(DIM)
        pooled = at.add("Tanh", gemm(at.child("dense"), "pooler.dense", first, w, bias))
        pooled.name = "pooler_output"
        return close_graph(self.builder, [(x, [*shape, DIM]), (pooled, ["batch", DIM])])

    def _embed(self, at: Scope, ids: ir.Value, types: ir.Value) -> ir.Value:
        positions = weight(at, "embeddings.position_ids", np.arange(POSITIONS)[None])
        positions = at.add("Slice", positions, [0], self.shape[1], [1], [1])
        x = self._table(at, "word", VOCAB, ids)
        x = at.add("Add", x, self._table(at, "token_type", TYPES, types))
        x = at.add("Add", x, self._table(at, "position", POSITIONS, positions))
        return self._norm(at.child("LayerNorm"), "embeddings.LayerNorm", x)

    def _table(self, at: Scope, kind: str, rows: int, index: ir.Value) -> ir.Value:
        name = f"{kind}_embeddings"
        table = self.draw.normal(rows, DIM) * self.scales
        table_value = weight(at, f"embeddings.{name}.weight", table)
        return at.child(name).add("Gather", table_value, index, axis=0)

    def _layer(self, at: Scope, name: str, x: ir.Value, out: str | None) -> ir.Value:
        h = self._attention(at.child("attention/self"), f"{name}.attention.self", x)
        w, bias = self._writer(DIM)
        to = at.child("attention/output")
        h = linear(to.child("dense"), f"{name}.attention.output.dense", h, w, bias)
        x = self._norm(
            to.child("LayerNorm"), f"{name}.attention.output.LayerNorm", to.add("Add", h, x)
        )
        w, bias = self._reader(FFN)
        h = linear(at.child("intermediate/dense"), f"{name}.intermediate.dense", x, w, bias)
        h = gelu(at.child("intermediate/intermediate_act_fn"), h)
        w, bias = self._writer(FFN)
        to = at.child("output")
        h = linear(to.child("dense"), f"{name}.output.dense", h, w, bias)
        norm = f"{name}.output.LayerNorm"
        return self._norm(to.child("LayerNorm"), norm, to.add("Add", h, x), out)

    def _attention(self, at: Scope, name: str, x: ir.Value) -> ir.Value:
        split = at.add("Concat", *self.shape, [HEADS], [HEAD_DIM], axis=0)
        heads = []
        for kind, perm in (("query", [0, 2, 1, 3]), ("key", [0, 2, 3, 1]), ("value", [0, 2, 1, 3])):
            w, bias = self._reader(DIM)
            flat = linear(at.child(kind), f"{name}.{kind}", x, w, bias)
            heads.append(at.add("Transpose", at.add("Reshape", flat, split), perm=perm))
        query, key, value = heads
        scores = at.add("Div", at.add("MatMul", query, key), math.sqrt(HEAD_DIM))
        probs = at.add("Softmax", at.add("Add", scores, self.mask), axis=-1)
        mixed = at.add("Transpose", at.add("MatMul", probs, value), perm=[0, 2, 1, 3])
        return at.add("Reshape", mixed, at.add("Concat", *self.shape, [DIM], axis=0))

    def _norm(self, at: Scope, name: str, x: ir.Value, out: str | None = None) -> ir.Value:
        gain = self.draw.normal(DIM, std=0.1, mean=1.0) * rms(self.scales)
        bias = self.draw.normal(DIM, std=0.1) * self.scales
        centred = at.add("Sub", x, at.add("ReduceMean", x, axes=[-1], keepdims=1))
        variance = at.add("ReduceMean", at.add("Pow", centred, 2.0), axes=[-1], keepdims=1)
        y = at.add("Div", centred, at.add("Sqrt", at.add("Add", variance, 1e-12)))
        y = at.add("Mul", y, weight(at, f"{name}.weight", gain))
        return at.add("Add", y, weight(at, f"{name}.bias", bias), out=out)

    def _reader(self, out: int) -> tuple[np.ndarray, np.ndarray]:
        return self.draw.linear(out, DIM) / self.scales, self.draw.normal(out, std=0.1)

    def _writer(self, into: int) -> tuple[np.ndarray, np.ndarray]:
        w = self.draw.linear(DIM, into, gain=2.0) * self.scales[:, None]
        return w, self.draw.normal(DIM, std=0.1) * self.scales


def feeds(rng: np.random.Generator, batch: int, length: int) -> dict[str, np.ndarray]:
    """Sentence pairs of `length` tokens; the last row is padded on the right."""
    keep = np.ones((batch, length), np.int64)
    keep[-1, length - length // 4 :] = 0
    types = np.zeros((batch, length), np.int64)
    types[:, length // 2 :] = 1
    ids = rng.integers(0, VOCAB, (batch, length), np.int64)
    return {"input_ids": ids, "attention_mask": keep, "token_type_ids": types}
