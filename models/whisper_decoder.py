"""Whisper's decoder with a cache, for one token at a time or many."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from bitfold.models.lazy import Weights
from bitfold.models.scope import Scope
from bitfold.models.tiny.parts import close_graph, dim, open_graph
from bitfold.models.whisper_parts import OPSET, Parts, WhisperConfig


def build_decoder(config: WhisperConfig, weights: Weights) -> ir.Model:
    """Build the ONNX model of the decoder.

    Inputs: `input_ids` i64[batch, sequence]; `encoder_hidden_states` f32[batch, new_frames, dim];
    for each layer i the keys and values of the tokens before, `past_key_values.{i}.decoder.key`
    and `.value` f32[batch, heads, past, head_dim], and of the encoder's frames that were given
    before, `past_key_values.{i}.encoder.key` and `.value` f32[batch, heads, past_frames,
    head_dim]. Outputs: `logits` f32[batch, sequence, vocab] and, named `present.…`, the caches
    with what is new appended.

    The first call gives all of the encoder's frames and empty caches; later ones give none, and
    the caches of the call before: what depends on the frames alone is computed once.

    Args:
        config: the shape of the model.
        weights: the weights under the names and shapes of `config.decoder_shapes()`; nothing is
            read before the model is run or saved, and then one weight at a time.

    Raises:
        ModelError: a weight is missing or has another shape than the configuration says.
    """
    return _Builder(config, weights).build()


class _Builder:
    """One construction in progress: the builder, and the values that layers share."""

    def __init__(self, config: WhisperConfig, weights: Weights) -> None:
        self.config = config
        self.parts = Parts(config, weights, config.decoder_shapes())
        self._builder, self._root = open_graph(OPSET)
        self._present: list[tuple[ir.Value, list[int | str]]] = []

    def build(self) -> ir.Model:
        c, root = self.config, self._root.child("model/decoder")
        ids = self._builder.input("input_ids", ir.DataType.INT64, ["batch", "sequence"])
        self._states = self._builder.input(
            "encoder_hidden_states", ir.DataType.FLOAT, ["batch", "new_frames", c.dim]
        )
        past = [
            {
                f"{part}.{kind}": self._past(i, part, kind)
                for part in ("decoder", "encoder")
                for kind in ("key", "value")
            }
            for i in range(c.layers)
        ]
        start = dim(root, past[0]["decoder.key"], 2)
        total = root.add("Add", start, dim(root, ids, 1))
        self._mask = self._causal_mask(root, start, total)
        table = self.parts.weight(root, "model.decoder.embed_tokens.weight")
        positions = self.parts.weight(root, "model.decoder.embed_positions.weight")
        x = root.add(
            "Add",
            root.child("embed_tokens").add("Gather", table, ids, axis=0),
            root.child("embed_positions").add("Slice", positions, start, total, [0]),
        )
        for i in range(c.layers):
            x = self._layer(root.child(f"layers.{i}"), i, x, past[i])
        x = self.parts.norm(root.child("layer_norm"), "model.decoder.layer_norm", x)
        head = self._root.child("proj_out")
        transposed = head.add("Transpose", table, perm=[1, 0])
        logits = head.add("MatMul", x, transposed, out="logits")
        shape: list[int | str] = ["batch", "sequence", c.vocab]
        return close_graph(self._builder, [(logits, shape), *self._present])

    def _past(self, layer: int, part: str, kind: str) -> ir.Value:
        c = self.config
        axis = "past" if part == "decoder" else "past_frames"
        return self._builder.input(
            f"past_key_values.{layer}.{part}.{kind}",
            ir.DataType.FLOAT,
            ["batch", c.heads, axis, self.parts.head_dim],
        )

    def _causal_mask(self, at: Scope, start: ir.Value, total: ir.Value) -> ir.Value:
        """Additive mask f32[sequence, total]: 0 where query i may see key j."""
        lowest = float(np.finfo(np.float32).min)
        first, end = at.add("Squeeze", start, [0]), at.add("Squeeze", total, [0])
        keys, queries = at.add("Range", 0, end, 1), at.add("Range", first, end, 1)
        visible = at.add("LessOrEqual", keys, at.add("Unsqueeze", queries, [1]))
        return at.add("Where", visible, 0.0, lowest)

    def _layer(self, at: Scope, i: int, x: ir.Value, past: dict[str, ir.Value]) -> ir.Value:
        name = f"model.decoder.layers.{i}"
        for attention, part in (("self_attn", "decoder"), ("encoder_attn", "encoder")):
            norm = f"{attention}_layer_norm"
            h = self.parts.norm(at.child(norm), f"{name}.{norm}", x)
            inside, full = at.child(attention), f"{name}.{attention}"
            query = self.parts.heads(inside, f"{full}.q_proj", h)
            source = h if part == "decoder" else self._states
            key, value = (
                self._append(inside, i, f"{part}.{kind}", past, f"{full}.{kind[0]}_proj", source)
                for kind in ("key", "value")
            )
            mask = self._mask if part == "decoder" else None
            x = at.add("Add", x, self.parts.attend(inside, full, query, key, value, mask))
        return self.parts.mlp(at, name, x)

    def _append(
        self, at: Scope, layer: int, which: str, past: dict[str, ir.Value], name: str, x: ir.Value
    ) -> ir.Value:
        """The cache with the keys or values of `x` behind it; it is an output too."""
        new = self.parts.heads(at, name, x)
        all_ = at.add("Concat", past[which], new, axis=2, out=f"present.{layer}.{which}")
        axis = "total" if which.startswith("decoder") else "total_frames"
        shape: list[int | str] = ["batch", self.config.heads, axis, self.parts.head_dim]
        self._present.append((all_, shape))
        return all_
