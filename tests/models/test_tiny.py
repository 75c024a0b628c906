"""The tiny models: they run, their seed determines them, and their outliers hurt quantization."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from bitfold.models.tiny import TINY, draw, sample_feeds
from bitfold.models.tiny import bert as bert_module
from bitfold.models.tiny import cnn as cnn_module
from bitfold.models.tiny import decoder as decoder_module
from bitfold.models.tiny import vit as vit_module
from bitfold.runtime.errors import UnsupportedError

NAMES = list(TINY)
STREAM = {"decoder": 64, "bert": 64, "vit": 64, "cnn": 32}
WITHOUT = {
    "decoder": lambda seed: decoder_module.decoder(seed, outliers=False),
    "bert": lambda seed: bert_module.bert(seed, outliers=False),
    "vit": lambda seed: vit_module.vit(seed, outliers=False),
    "cnn": lambda seed: cnn_module.cnn(seed, outliers=False),
}


def serialize(model: ir.Model) -> bytes:
    return ir.to_proto(model).SerializeToString(deterministic=True)


def run(model: ir.Model, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    return ort.InferenceSession(serialize(model)).run(None, feeds)


def digest(name: str, seed: int) -> str:
    return hashlib.sha256(serialize(TINY[name](seed))).hexdigest()


def readers(model: ir.Model, channels: int) -> list[tuple[ir.Value, np.ndarray]]:
    """Every linear op that contracts over the stream: its input and W[out, in]."""
    found = []
    for node in model.graph:
        if node.op_type not in ("MatMul", "Gemm", "Conv"):
            continue
        x, w = node.inputs[0], node.inputs[1]
        if w.const_value is None:
            continue
        array = w.const_value.numpy()
        if node.op_type == "MatMul":
            array = array.T
        if array.shape[1] == channels and array[0, 0].size == 1:
            found.append((x, array.reshape(array.shape[:2])))
    return found


def reader_inputs(name: str, model: ir.Model) -> list[tuple[np.ndarray, np.ndarray]]:
    """As `readers`, with the inputs' values of one run as X[tokens, in]."""
    sites = readers(model, STREAM[name])
    model.graph.outputs.clear()
    for value in dict.fromkeys(x for x, _ in sites):
        value.type = ir.TensorType(ir.DataType.FLOAT)
        model.graph.outputs.append(value)
    names = [v.name for v in model.graph.outputs]
    values = dict(zip(names, run(model, sample_feeds(name, 7, batch=4)), strict=True))
    result = []
    for x, w in sites:
        array = values[x.name]
        array = np.moveaxis(array, 1, -1) if array.ndim == 4 else array
        result.append((array.reshape(-1, array.shape[-1]), w))
    return result


def per_token_sqnr(x: np.ndarray, w: np.ndarray, bits: int) -> float:
    """Signal to noise in dB of X̂·Wᵀ, X̂ being X in signed integers with one scale a token."""
    top = 2 ** (bits - 1) - 1
    scale = np.abs(x).max(axis=1, keepdims=True) / top
    error = (np.rint(x / scale) * scale - x) @ w.T
    return float(10 * np.log10(np.square(x @ w.T).sum() / np.square(error).sum()))


@pytest.mark.parametrize("name", NAMES)
def test_is_valid_and_runs_in_stock_ort(name: str) -> None:
    model = TINY[name](0)
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    outputs = run(model, sample_feeds(name, 0))
    for value, output in zip(proto.graph.output, outputs, strict=True):
        declared = [d.dim_value or None for d in value.type.tensor_type.shape.dim]
        assert len(declared) == output.ndim
        assert all(d in (None, n) for d, n in zip(declared, output.shape, strict=True))
        assert np.isfinite(output).all()
        assert output.std() > 0.1


@pytest.mark.parametrize("name", NAMES)
def test_seed_determines_every_byte(name: str) -> None:
    assert digest(name, 3) == digest(name, 3)
    assert digest(name, 3) != digest(name, 4)


def test_bytes_are_the_same_in_another_process() -> None:
    code = (
        "import hashlib, onnx_ir as ir\n"
        "from bitfold.models.tiny import TINY\n"
        "for build in TINY.values():\n"
        "    data = ir.to_proto(build(3)).SerializeToString(deterministic=True)\n"
        "    print(hashlib.sha256(data).hexdigest())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONHASHSEED": "12345"},
    )
    assert done.stdout.split() == [digest(name, 3) for name in NAMES]


@pytest.mark.parametrize("name", NAMES)
def test_batch_is_dynamic_and_rows_are_independent(name: str) -> None:
    session = ort.InferenceSession(serialize(TINY[name](1)))
    feeds = sample_feeds(name, 1, batch=3)
    together = session.run(None, feeds)
    for row in range(3):
        alone = session.run(None, {k: v[row : row + 1] for k, v in feeds.items()})
        for a, b in zip(together, alone, strict=True):
            scale = np.abs(a[row]).max()
            np.testing.assert_allclose(a[row : row + 1], b, rtol=0, atol=2e-5 * scale)


@pytest.mark.parametrize("name", ["decoder", "bert"])
def test_padding_does_not_reach_the_kept_tokens(name: str) -> None:
    session = ort.InferenceSession(serialize(TINY[name](1)))
    feeds = sample_feeds(name, 1, batch=1, length=12)
    kept = feeds["attention_mask"][0].astype(bool)
    assert 0 < kept.sum() < 12
    expected = session.run(None, feeds)[0][:, kept]
    cut = {k: v[:, kept] if v.shape[1:] == (12,) else v for k, v in feeds.items()}
    assert cut["input_ids"].shape == (1, 9)
    found = session.run(None, cut)[0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def test_bert_token_types_matter() -> None:
    session = ort.InferenceSession(serialize(TINY["bert"](1)))
    feeds = sample_feeds("bert", 1)
    other = feeds | {"token_type_ids": 1 - feeds["token_type_ids"]}
    a, b = session.run(None, feeds)[1], session.run(None, other)[1]
    assert np.abs(a - b).max() > 0.05


def test_cnn_takes_other_image_sizes() -> None:
    session = ort.InferenceSession(serialize(TINY["cnn"](1)))
    images = np.random.default_rng(0).standard_normal((2, 3, 45, 28)).astype(np.float32)
    assert session.run(None, {"input": images})[0].shape == (2, cnn_module.CLASSES)


@pytest.mark.parametrize(
    ("name", "ops"),
    [
        ("decoder", {"Pow", "Softmax", "Sigmoid", "Cos", "Expand"}),
        ("bert", {"ReduceMean", "Erf", "Softmax", "Gemm", "Tanh"}),
        ("vit", {"Conv", "LayerNormalization", "Tanh", "Softmax", "Gemm"}),
        ("cnn", {"Conv", "BatchNormalization", "Clip", "HardSwish", "HardSigmoid", "Relu"}),
    ],
)
def test_has_the_ops_that_exporters_write(name: str, ops: set[str]) -> None:
    found = {node.op_type for node in TINY[name](0).graph}
    assert ops <= found
    assert all(node.domain == "" for node in TINY[name](0).graph)
    assert not found & {"RMSNormalization", "RotaryEmbedding", "Attention", "Gelu"}
    groups = {n.attributes["group"].value for n in TINY[name](0).graph if "group" in n.attributes}
    assert (cnn_module.HIDDEN in groups) == (name == "cnn")


@pytest.mark.parametrize("name", NAMES)
def test_some_channels_are_tens_of_times_larger(name: str) -> None:
    def ratios(model: ir.Model) -> list[float]:
        found = []
        for x, _ in reader_inputs(name, model):
            size = np.abs(x).max(axis=0)
            found.append(float(size.max() / np.median(size)))
        return found

    # Drawn 30 to 100 times larger; a LayerNorm's mean hands a part on to the ordinary channels.
    assert max(ratios(TINY[name](0))) > 20
    assert max(ratios(WITHOUT[name](0))) < 10


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", NAMES)
def test_outliers_hurt_per_token_activations(name: str, seed: int) -> None:
    def sqnr(model: ir.Model) -> float:
        return float(np.mean([per_token_sqnr(x, w, 8) for x, w in reader_inputs(name, model)]))

    assert sqnr(TINY[name](seed)) < sqnr(WITHOUT[name](seed)) - 15


@pytest.mark.parametrize("name", NAMES)
def test_outlier_channels_are_few_and_in_range(name: str) -> None:
    scales = draw.Draw(5, 1).channel_scales(STREAM[name], outliers=True)
    large = scales[scales != 1]
    assert large.size == draw.OUTLIERS
    assert (large >= draw.STRENGTH[0]).all()
    assert (large <= draw.STRENGTH[1]).all()


def test_sample_feeds_refuses_an_unknown_name() -> None:
    with pytest.raises(UnsupportedError, match="no tiny model 'resnet'") as caught:
        sample_feeds("resnet", 0)
    assert "decoder" in caught.value.hint


def test_vit_position_table_covers_the_patches() -> None:
    model = vit_module.vit(0)
    table = model.graph.initializers["pos_embed"].const_value
    assert table is not None
    assert table.shape == (1, vit_module.TOKENS, vit_module.DIM)
