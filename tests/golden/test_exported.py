"""Graphs as torch's exporters write them: what is raised, that it stays exact, what is quantized.

See README.md for where the files come from.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from support.graphs import apply, assert_same, census, run, text_of

import bitfold
from bitfold.passes.canonicalize.canonicalize import Canonicalize

FOLDER = Path(__file__).parent / "exported"
RAISED = ("LayerNormalization", "RMSNormalization", "InstanceNormalization", "Gelu")
RAISED += ("RotaryEmbedding", "Attention", "Softmax", "Sqrt", "Erf")
SMALL = "too small to gain from it"
PADDED = "with its padding"


@dataclass(frozen=True)
class Expected:
    """What becomes of a module, whichever exporter wrote it.

    Attributes:
        operators: how many nodes canonicalizing leaves of each operator in ``RAISED``.
        quantized: how many sites w8a8 quantizes.
        skipped: how many it skips, by a part of the reason.
    """

    operators: dict[str, int]
    quantized: int
    skipped: dict[str, int]


_BERT = {"LayerNormalization": 5, "Gelu": 2, "Attention": 2}
_LLAMA = {"RMSNormalization": 3, "RotaryEmbedding": 2, "Attention": 1}

# The exporters write different graphs, but what is raised and quantized is the same.
EXPECTED: dict[str, Expected] = {
    "bert": Expected(_BERT, 11, {SMALL: 1}),
    "bert_sdpa": Expected(_BERT, 11, {SMALL: 1}),
    "convnext": Expected({"LayerNormalization": 5, "Gelu": 2}, 8, {PADDED: 1}),
    "gpt2": Expected(_BERT, 11, {}),
    "gptj_rope": Expected(_LLAMA, 6, {}),
    "llama": Expected(_LLAMA, 6, {}),
    "llama_cache": Expected(_LLAMA, 6, {}),
    "llama_interleaved": Expected(_LLAMA, 6, {}),
    "llama_sdpa": Expected(_LLAMA, 6, {}),
    "lstm": Expected({}, 2, {"recurrent layers": 2}),
    "mobilenet_v3": Expected({}, 9, {SMALL: 5}),
    "moe_dense": Expected({"Softmax": 1}, 8, {SMALL: 1}),
    "moe_gather": Expected({"Softmax": 1}, 8, {SMALL: 1}),
    "moe_table": Expected({"Softmax": 1}, 1, {SMALL: 1, "its table has 3 axes, not 2": 2}),
    "neox_rope": Expected(_LLAMA, 6, {SMALL: 2}),
    "resnet": Expected({}, 5, {SMALL: 1, PADDED: 1}),
    "swin": Expected({**_BERT, "Attention": 1, "Softmax": 1}, 10, {SMALL: 1}),
    "t5": Expected({"RMSNormalization": 7, "Attention": 3}, 14, {SMALL: 2}),
    "t5_gated": Expected({"RMSNormalization": 7, "Attention": 3, "Gelu": 2}, 14, {SMALL: 2}),
    "torch_encoder": Expected({**_BERT, "LayerNormalization": 4}, 8, {}),
    "unet": Expected({"InstanceNormalization": 6}, 5, {SMALL: 2, "transposed convolutions": 1}),
    "vit": Expected(_BERT, 9, {PADDED: 1}),
    "whisper_decoder": Expected({"LayerNormalization": 4, "Gelu": 1, "Attention": 2}, 10, {}),
    "whisper_encoder": Expected(
        {"LayerNormalization": 5, "Gelu": 4, "Attention": 2}, 9, {SMALL: 1}
    ),
}
FIXED = {"torch_encoder.torchscript"}
"""Files that compute with the example's sizes alone: what the tracer saw became constants."""

FILES = sorted(path.stem for path in FOLDER.glob("*.onnx"))


def arrays(file: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The example inputs, and what torch made of them."""
    with np.load(FOLDER / f"{file.partition('.')[0]}.npz") as stored:
        found = [
            {name.removeprefix(kind): stored[name] for name in stored if name.startswith(kind)}
            for kind in ("in.", "out.")
        ]
    return found[0], found[1]


def smaller(model: ir.Model, feeds: dict[str, np.ndarray], fewer: int) -> dict[str, np.ndarray]:
    """The example inputs cut to a batch of one and ``fewer`` tokens less."""
    cut = {}
    for value in model.graph.inputs:
        array = feeds[str(value.name)]
        for axis, dim in enumerate(value.shape or ()):
            name = None if isinstance(dim, int) else dim.value
            size = array.shape[axis]
            size = {"batch": 1, "sequence": size - fewer, "total": size - fewer}.get(name, size)
            array = array.take(range(size), axis=axis)
        cut[str(value.name)] = array
    return cut


def samples(file: str, model: ir.Model) -> list[dict[str, np.ndarray]]:
    """Inputs of two sizes.  ORT's attention with a cache takes several tokens in a batch of one."""
    feeds, _ = arrays(file)
    if file in FIXED:
        return [feeds]
    cached = any("past" in str(value.name) for value in model.graph.inputs)
    return [smaller(model, feeds, 0) if cached else feeds, smaller(model, feeds, 2)]


def test_every_module_has_its_files():
    assert {file.partition(".")[0] for file in FILES} == set(EXPECTED)
    missing = {f"{name}.{exporter}" for name in EXPECTED for exporter in ("dynamo", "torchscript")}
    assert missing - set(FILES) == {"gptj_rope.torchscript"}  # see README.md


@pytest.mark.parametrize("file", FILES)
def test_canonicalizing_raises_and_gives_what_torch_gives(file):
    model = ir.load(FOLDER / f"{file}.onnx")
    feeds, wanted = arrays(file)
    entry = apply(Canonicalize(), model)
    found = census(model)
    expected = EXPECTED[file.partition(".")[0]].operators
    assert {name: found[name] for name in RAISED if found[name]} == expected
    assert_same(wanted, run(model, feeds), 1e-5)
    assert entry.status == "applied"
    once = text_of(model)
    apply(Canonicalize(), model)
    assert text_of(model) == once


@pytest.mark.parametrize("file", FILES)
def test_exact_passes_stay_exact(file):
    path = FOLDER / f"{file}.onnx"
    inputs = samples(file, ir.load(path))
    result = bitfold.convert(path, preset="float", samples=inputs, verify="full", strict=True)
    assert result.report.total.max_error < 1e-5
    assert not result.report.rolled_back


@pytest.mark.parametrize("file", FILES)
def test_w8a8_quantizes_each_site_or_says_why_not(file):
    path = FOLDER / f"{file}.onnx"
    inputs = samples(file, ir.load(path))
    result = bitfold.convert(path, preset="w8a8", samples=inputs, verify="full", strict=True)
    assert result.report.total.cosine > 0.999
    entry = next(entry for entry in result.report.passes if entry.name == "quantize")
    expected = EXPECTED[file.partition(".")[0]]
    assert len(entry.sites) == expected.quantized
    reasons = Counter(
        next((each for each in expected.skipped if each in skip.text), skip.text)
        for skip in entry.skips
    )
    assert reasons == expected.skipped
