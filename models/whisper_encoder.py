"""Whisper's encoder: a spectrogram in, hidden states out."""

from __future__ import annotations

import onnx_ir as ir

from bitfold.models.layers import gelu
from bitfold.models.lazy import Weights
from bitfold.models.scope import Scope
from bitfold.models.tiny.parts import close_graph, open_graph
from bitfold.models.whisper_parts import OPSET, Parts, WhisperConfig


def build_encoder(config: WhisperConfig, weights: Weights) -> ir.Model:
    """Build the ONNX model of the encoder.

    Input `input_features` f32[batch, mels, 2·frames]: a log-mel spectrogram. Output
    `last_hidden_state` f32[batch, frames, dim].

    Args:
        config: the shape of the model.
        weights: the weights under the names and shapes of `config.encoder_shapes()`; nothing is
            read before the model is run or saved, and then one weight at a time.

    Raises:
        ModelError: a weight is missing or has another shape than the configuration says.
    """
    parts = Parts(config, weights, config.encoder_shapes())
    builder, root = open_graph(OPSET)
    mel = builder.input(
        "input_features", ir.DataType.FLOAT, ["batch", config.mels, 2 * config.frames]
    )
    name = "model.encoder"
    x = gelu(root, _conv(parts, root.child("conv1"), f"{name}.conv1", mel, stride=1))
    x = gelu(root, _conv(parts, root.child("conv2"), f"{name}.conv2", x, stride=2))
    x = root.add("Transpose", x, perm=[0, 2, 1])
    x = root.add("Add", x, parts.weight(root, f"{name}.embed_positions.weight"))
    for i in range(config.layers):
        x = _layer(parts, root.child(f"layers.{i}"), f"{name}.layers.{i}", x)
    x = parts.norm(root.child("layer_norm"), f"{name}.layer_norm", x, out="last_hidden_state")
    return close_graph(builder, [(x, ["batch", config.frames, config.dim])])


def _conv(parts: Parts, at: Scope, name: str, x: ir.Value, stride: int) -> ir.Value:
    weight, bias = parts.weight(at, f"{name}.weight"), parts.weight(at, f"{name}.bias")
    return at.add(
        "Conv", x, weight, bias, kernel_shape=[3], strides=[stride], pads=[1, 1], dilations=[1]
    )


def _layer(parts: Parts, at: Scope, name: str, x: ir.Value) -> ir.Value:
    h = parts.norm(at.child("self_attn_layer_norm"), f"{name}.self_attn_layer_norm", x)
    attention = at.child("self_attn")
    query, key, value = (
        parts.heads(attention, f"{name}.self_attn.{kind}_proj", h) for kind in "qkv"
    )
    h = parts.attend(attention, f"{name}.self_attn", query, key, value)
    return parts.mlp(at, name, at.add("Add", x, h))
