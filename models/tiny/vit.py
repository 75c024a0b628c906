"""A tiny vision transformer: convolutional patch stem, class token, pre-LN, fused QKV, tanh GELU.

Written as exporters write it at opset 17, with LayerNormalization as one op (architecture:
Dosovitskiy et al., 2020, arXiv 2010.11929).
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from bitfold.models.scope import Scope
from bitfold.models.tiny.draw import Draw, rms
from bitfold.models.tiny.parts import close_graph, dim, gemm, linear, open_graph, weight

LAYERS, DIM, HEADS, FFN, CLASSES = 2, 64, 4, 128, 16
IMAGE, PATCH = 32, 8
TOKENS = (IMAGE // PATCH) ** 2 + 1
HEAD_DIM = DIM // HEADS


def vit(seed: int, outliers: bool = True) -> ir.Model:
    """Builds the classifier: `pixel_values` f32[batch, 3, 32, 32] → `logits` f32[batch, 16].

    Args:
        seed: determines every weight.
        outliers: whether the residual stream has outlier channels.
    """
    return _Builder(Draw(seed, 3), outliers).build()


class _Builder:
    def __init__(self, draw: Draw, outliers: bool) -> None:
        self.draw = draw
        self.scales = draw.channel_scales(DIM, outliers)
        self.builder, self.root = open_graph(17)

    def build(self) -> ir.Model:
        pixels = self.builder.input("pixel_values", ir.DataType.FLOAT, ["batch", 3, IMAGE, IMAGE])
        self.batch = dim(self.root, pixels, 0)
        x = self._stem(self.root.child("patch_embed"), pixels)
        for i in range(LAYERS):
            x = self._block(self.root.child(f"blocks.{i}"), f"blocks.{i}", x)
        x = self._norm(self.root.child("norm"), "norm", x)
        first = self.root.add("Gather", x, 0, axis=1)
        w, bias = self._reader(CLASSES)
        logits = gemm(self.root.child("head"), "head", first, w, bias, out="logits")
        return close_graph(self.builder, [(logits, ["batch", CLASSES])])

    def _stem(self, at: Scope, pixels: ir.Value) -> ir.Value:
        fan_in = 3 * PATCH * PATCH
        kernel = self.draw.linear(DIM, fan_in).reshape(DIM, 3, PATCH, PATCH)
        w = weight(at, "patch_embed.proj.weight", kernel * self.scales[:, None, None, None])
        bias = self.draw.normal(DIM, std=0.1) * self.scales
        x = at.child("proj").add(
            "Conv",
            pixels,
            w,
            weight(at, "patch_embed.proj.bias", bias),
            dilations=[1, 1],
            group=1,
            kernel_shape=[PATCH, PATCH],
            pads=[0, 0, 0, 0],
            strides=[PATCH, PATCH],
        )
        flat = at.add("Reshape", x, at.add("Concat", self.batch, [DIM], [TOKENS - 1], axis=0))
        x = at.add("Transpose", flat, perm=[0, 2, 1])
        token = weight(at, "cls_token", self.draw.normal(1, 1, DIM) * self.scales)
        shape = self.root.add("Concat", self.batch, [1], [DIM], axis=0)
        x = self.root.add("Concat", self.root.add("Expand", token, shape), x, axis=1)
        positions = self.draw.normal(1, TOKENS, DIM, std=0.5) * self.scales
        return self.root.add("Add", x, weight(at, "pos_embed", positions))

    def _block(self, at: Scope, name: str, x: ir.Value) -> ir.Value:
        h = self._norm(at.child("norm1"), f"{name}.norm1", x)
        x = at.add("Add", x, self._attention(at.child("attn"), f"{name}.attn", h))
        h = self._norm(at.child("norm2"), f"{name}.norm2", x)
        w, bias = self._reader(FFN)
        h = linear(at.child("mlp/fc1"), f"{name}.mlp.fc1", h, w, bias)
        h = _gelu(at.child("mlp/act"), h)
        w, bias = self._writer(FFN)
        return at.add("Add", x, linear(at.child("mlp/fc2"), f"{name}.mlp.fc2", h, w, bias))

    def _attention(self, at: Scope, name: str, x: ir.Value) -> ir.Value:
        w, bias = self._reader(3 * DIM)
        fused = linear(at.child("qkv"), f"{name}.qkv", x, w, bias)
        shape = at.add("Concat", self.batch, [TOKENS], [3], [HEADS], [HEAD_DIM], axis=0)
        fused = at.add("Transpose", at.add("Reshape", fused, shape), perm=[2, 0, 3, 1, 4])
        query, key, value = (at.add("Gather", fused, i, axis=0) for i in range(3))
        query = at.add("Mul", query, float(HEAD_DIM**-0.5))
        key = at.add("Transpose", key, perm=[0, 1, 3, 2])
        probs = at.add("Softmax", at.add("MatMul", query, key), axis=-1)
        mixed = at.add("Transpose", at.add("MatMul", probs, value), perm=[0, 2, 1, 3])
        mixed = at.add("Reshape", mixed, at.add("Concat", self.batch, [TOKENS], [DIM], axis=0))
        w, bias = self._writer(DIM)
        return linear(at.child("proj"), f"{name}.proj", mixed, w, bias)

    def _norm(self, at: Scope, name: str, x: ir.Value) -> ir.Value:
        gain = self.draw.normal(DIM, std=0.1, mean=1.0) * rms(self.scales)
        bias = self.draw.normal(DIM, std=0.1) * self.scales
        values = weight(at, f"{name}.weight", gain), weight(at, f"{name}.bias", bias)
        return at.add("LayerNormalization", x, *values, axis=-1, epsilon=1e-6)

    def _reader(self, out: int) -> tuple[np.ndarray, np.ndarray]:
        return self.draw.linear(out, DIM) / self.scales, self.draw.normal(out, std=0.1)

    def _writer(self, into: int) -> tuple[np.ndarray, np.ndarray]:
        w = self.draw.linear(DIM, into) * self.scales[:, None]
        return w, self.draw.normal(DIM, std=0.1) * self.scales


def _gelu(at: Scope, x: ir.Value) -> ir.Value:
    """½·x·(1 + tanh(√(2/π)·(x + 0.044715·x³))) (arXiv 1606.08415)."""
    cubic = at.add("Mul", at.add("Pow", x, 3.0), 0.044715)
    inner = at.add("Mul", at.add("Add", x, cubic), math.sqrt(2.0 / math.pi))
    half = at.add("Mul", x, 0.5)
    return at.add("Mul", half, at.add("Add", at.add("Tanh", inner), 1.0))


def feeds(rng: np.random.Generator, batch: int, length: int) -> dict[str, np.ndarray]:
    """Noise images; `length` means nothing here."""
    pixels = rng.standard_normal((batch, 3, IMAGE, IMAGE))
    return {"pixel_values": pixels.astype(np.float32)}
