"""The EfficientNet builder: structure, padding and batch norm against NumPy, refusals."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from bitfold.models.efficientnet import STAGES, build_efficientnet
from bitfold.runtime.errors import ModelError
from bitfold.runtime.execution import open_session


def weights() -> dict[str, np.ndarray]:
    """A checkpoint's weights: drawn with the shapes that the architecture's table gives."""
    rng = np.random.default_rng(5)
    shapes: dict[str, tuple[int, ...]] = {"_conv_stem.weight": (32, 3, 3, 3), "_bn0": (32,)}
    channels, index = 32, 0
    for stage in STAGES:
        for _ in range(stage.blocks):
            name, hidden = f"_blocks.{index}", channels * stage.expand
            if stage.expand != 1:
                shapes[f"{name}._expand_conv.weight"] = (hidden, channels, 1, 1)
                shapes[f"{name}._bn0"] = (hidden,)
            shapes[f"{name}._depthwise_conv.weight"] = (hidden, 1, stage.kernel, stage.kernel)
            shapes[f"{name}._bn1"] = (hidden,)
            shapes[f"{name}._project_conv.weight"] = (stage.channels, hidden, 1, 1)
            shapes[f"{name}._bn2"] = (stage.channels,)
            channels, index = stage.channels, index + 1
    shapes |= {"_conv_head.weight": (1280, 320, 1, 1), "_bn1": (1280,)}
    shapes |= {"_fc.weight": (1000, 1280), "_fc.bias": (1000,)}
    found = {}
    for name, shape in shapes.items():
        if "_bn" in name:
            for part in ("weight", "bias", "running_mean", "running_var"):
                low = 0.5 if part in ("weight", "running_var") else -0.5
                found[f"{name}.{part}"] = rng.uniform(low, 1.5, shape).astype(np.float32)
        else:
            fan = int(np.prod(shape[1:])) or 1
            found[name] = (rng.standard_normal(shape) / fan**0.5).astype(np.float32)
    return found


def test_has_the_published_structure() -> None:
    drawn = weights()
    model = build_efficientnet(drawn)
    counts: dict[str, int] = {}
    for node in model.graph:
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    assert counts == {
        "Conv": 49, "BatchNormalization": 49, "Clip": 33, "Pad": 17, "Add": 9,
        "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1,
    }  # fmt: skip
    parameters = sum(
        array.size for name, array in drawn.items() if not name.endswith(("_mean", "_var"))
    )
    assert parameters == 4_652_008  # EfficientNet-Lite0's published 4.7 million
    assert set(drawn) <= set(model.graph.initializers)


def test_the_stem_is_padded_as_tensorflow_does() -> None:
    """224 pixels, stride 2, kernel 3: one row of zeros at the end, none at the start."""
    drawn = weights()
    model = build_efficientnet(drawn)
    x = np.random.default_rng(6).standard_normal((1, 3, 224, 224)).astype(np.float32)
    clip = next(node for node in model.graph if node.op_type == "Clip")
    name = clip.outputs[0].name or ""
    found = open_session(model, outputs=[name]).run({"input": x})[name]
    padded = np.pad(x[0], ((0, 0), (0, 1), (0, 1)))
    w = drawn["_conv_stem.weight"]
    for row, column in ((0, 0), (0, 111), (111, 0), (111, 111), (40, 57)):
        patch = padded[:, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
        y = np.einsum("nchw,chw->n", w, patch)
        part = {key: drawn[f"_bn0.{key}"] for key in ("weight", "bias")}
        mean, var = drawn["_bn0.running_mean"], drawn["_bn0.running_var"]
        y = (y - mean) / np.sqrt(var + 1e-3) * part["weight"] + part["bias"]
        np.testing.assert_allclose(found[0, :, row, column], np.clip(y, 0, 6), atol=1e-4)


def test_runs_and_refuses_what_does_not_fit() -> None:
    drawn = weights()
    model = build_efficientnet(drawn)
    assert model.graph.outputs[0].shape == ir.Shape(["batch", 1000])
    logits = open_session(model).run({"input": np.zeros((2, 3, 224, 224), np.float32)})["logits"]
    assert logits.shape == (2, 1000)
    assert np.isfinite(logits).all()
    with pytest.raises(ModelError, match=r"_fc.bias is missing"):
        build_efficientnet({k: v for k, v in drawn.items() if k != "_fc.bias"})
    with pytest.raises(ModelError, match=r"_fc.bias: expected float32\[1000\], found .*\[999\]"):
        build_efficientnet({**drawn, "_fc.bias": np.zeros(999, np.float32)})
