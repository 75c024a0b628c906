"""Train a small classifier of digits to binary or ternary weights, in NumPy, and write it as ONNX.

A program: ``python straight_through.py DIGITS binary|ternary OUTPUT``.

The forward pass has each weight on its grid, and gradients go through the rounding as if it were
not there: the straight-through estimator (arXiv 1308.3432; BinaryConnect, arXiv 1511.00363).
Binary weights are signs times a row's mean magnitude (XNOR-Net, 1603.05279); ternary ones are 0
below 0.7 of that mean, and have the mean of the others (Ternary Weight Networks, 1605.04711).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnx.parser

from bitfold.models.digits import TRAINING, read_digits

Layer = tuple[np.ndarray, np.ndarray]
"""A weight [out, in] and a bias [out]."""


def on_grid(weight: np.ndarray, levels: str) -> np.ndarray:
    """``weight`` [N, K] in ``binary`` or ``ternary`` values, one magnitude for each row."""
    magnitude = np.abs(weight)
    mean = magnitude.mean(1, keepdims=True)
    if levels == "binary":
        return np.where(weight < 0, -mean, mean)
    kept = magnitude > 0.7 * mean
    scale = (magnitude * kept).sum(1, keepdims=True) / np.maximum(kept.sum(1, keepdims=True), 1)
    return (scale * kept * np.sign(weight)).astype(np.float32)


def forward(layers: Sequence[Layer], x: np.ndarray) -> list[np.ndarray]:
    """The input, the hidden values after each ReLU, and the logits."""
    values = [x]
    for depth, (weight, bias) in enumerate(layers):
        y = values[-1] @ weight.T + bias
        values.append(np.maximum(y, 0) if depth + 1 < len(layers) else y)
    return values


def trained(
    images: np.ndarray, classes: np.ndarray, levels: str, width: int = 384, epochs: int = 15
) -> list[Layer]:
    """Three layers with weights on their grid, after Adam (arXiv 1412.6980) on cross-entropy."""
    rng = np.random.default_rng(0)
    sizes = [images.shape[1], width, width, 10]
    latent = [
        (rng.standard_normal((n, k)).astype(np.float32) / np.float32(np.sqrt(k)))
        for k, n in pairwise(sizes)
    ]
    parameters = [*latent, *(np.zeros(n, np.float32) for n in sizes[1:])]
    first = [np.zeros_like(each) for each in parameters]
    second = [np.zeros_like(each) for each in parameters]
    batch, step = 140, 0
    for epoch in range(epochs):
        rate = np.float32(2e-3 * (1 - epoch / epochs))
        order = rng.permutation(len(images))
        for start in range(0, len(images), batch):
            picked, step = order[start : start + batch], step + 1
            layers = layers_of(parameters, levels)
            gradients = _gradients(layers, images[picked], classes[picked])
            for index, gradient in enumerate(gradients):
                first[index] = 0.9 * first[index] + 0.1 * gradient
                second[index] = 0.999 * second[index] + 0.001 * gradient**2
                moved = first[index] / (1 - 0.9**step)
                spread = np.sqrt(second[index] / (1 - 0.999**step)) + 1e-8
                parameters[index] = (parameters[index] - rate * moved / spread).astype(np.float32)
    return layers_of(parameters, levels)


def layers_of(parameters: Sequence[np.ndarray], levels: str) -> list[Layer]:
    """The layers, weights on their grid, from latent weights and biases."""
    half = len(parameters) // 2
    weights = (on_grid(weight, levels) for weight in parameters[:half])
    return list(zip(weights, parameters[half:], strict=True))


def _gradients(layers: Sequence[Layer], x: np.ndarray, classes: np.ndarray) -> list[np.ndarray]:
    """Of the mean cross-entropy, by the weights and then by the biases."""
    values = forward(layers, x)
    shifted = np.exp(values[-1] - values[-1].max(1, keepdims=True))
    wrong = shifted / shifted.sum(1, keepdims=True)
    wrong[np.arange(len(x)), classes] -= 1
    wrong /= len(x)
    of_weights, of_biases = [], []
    for depth in reversed(range(len(layers))):
        of_weights.append(wrong.T @ values[depth])
        of_biases.append(wrong.sum(0))
        wrong = (wrong @ layers[depth][0]) * (values[depth] > 0)
    return [*reversed(of_weights), *reversed(of_biases)]


def classifier(layers: Sequence[Layer]) -> onnx.ModelProto:
    """The float model [n, in] -> logits [n, 10] that an exporter would write."""
    body, value, constants = [], "x", {}
    for depth, (weight, bias) in enumerate(layers):
        last = depth + 1 == len(layers)
        constants |= {f"w{depth}": weight, f"b{depth}": bias}
        output = "logits" if last else f"y{depth}"
        body.append(f"{output} = Gemm <transB = 1> ({value}, w{depth}, b{depth})")
        if not last:
            value = f"h{depth}"
            body.append(f"{value} = Relu({output})")
    inputs = layers[0][0].shape[1]
    text = f"g (float[n, {inputs}] x) => (float[n, 10] logits) {{ {' '.join(body)} }}"
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 23]> {text}')
    for name, array in constants.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return model


if __name__ == "__main__":
    data, levels, output = sys.argv[1:]
    onnx.save(classifier(trained(*read_digits(Path(data), TRAINING), levels)), output)
