"""The main job on a real language model: SmolLM2, fetched from the package index."""

from pathlib import Path

import numpy as np
import pytest
from support.real_models import SHORT

import bitfold
from bitfold.frontend.bench import model_bytes
from bitfold.frontend.evaluate import evaluate
from bitfold.frontend.importers import import_model
from bitfold.frontend.importers.build import build
from bitfold.frontend.text_samples import causal_feeds
from bitfold.runtime.execution import open_session

pytestmark = pytest.mark.slow

CHUNKS = 2 if SHORT else None
"""Chunks of 512 tokens to score; None for the whole text."""

PRESETS = ["w4a8"] if SHORT else ["w8a8", "w4a8"]


@pytest.fixture(scope="module")
def float_path() -> Path:
    return build("smollm2-135m")


@pytest.fixture(scope="module", params=PRESETS)
def converted(request, float_path, tmp_path_factory) -> tuple[str, Path]:
    path = tmp_path_factory.mktemp(request.param) / "model.onnx"
    result = bitfold.convert(float_path, path, preset=request.param)
    assert [entry.name for entry in result.report.passes if entry.status == "rolled-back"] == []
    operators = [node.op_type for node in result.model.graph]
    # 30 layers of QKV, output, gate-and-up and down projections, and the head.
    assert operators.count("LowBitMatMul") == 30 * 4 + 1
    assert operators.count("FusedAttention") == 30
    assert operators.count("Split") == 0
    return request.param, path


def test_quality_and_size(converted, float_path):
    preset, path = converted
    score = evaluate(path, float_path, chunks=CHUNKS).score
    assert score is not None
    assert score.kl is not None
    assert score.kl <= {"w8a8": 0.006, "w4a8": 0.3}[preset]
    assert model_bytes(path) < {"w8a8": 146e6, "w4a8": 95e6}[preset]


def test_the_file_runs_as_well_without_the_library(converted, float_path):
    preset, path = converted
    score = evaluate(path, float_path, chunks=2, library=False).score
    assert score is not None
    assert score.kl is not None
    assert score.kl <= {"w8a8": 0.006, "w4a8": 0.3}[preset]


def test_operators_and_function_bodies_agree_to_rounding(converted):
    """Within the first layer.  An activation at the edge of two codes falls to either side, where a
    norm is taken into the operator: that moves its whole row, and from layer to layer the two runs
    become two draws of the same quantization noise.
    """
    _, path = converted
    model = import_model(path)
    first_layer = [
        node.outputs[0].name
        for node in model.graph
        if "layers.0/" in (node.name or "") and node.op_type.startswith("LowBit")
    ]
    assert len(first_layer) == 4
    feeds = causal_feeds(model, np.random.default_rng(0).integers(0, 49152, (1, 24)), {})
    kernels, bodies = (
        open_session(model, outputs=first_layer, op_library=library, optimize=False).run(feeds)
        for library in (True, False)
    )
    errors = {name: np.abs(kernels[name] - bodies[name]) for name in first_layer}
    first = first_layer[0]
    rows = errors[first].reshape(24, -1).max(1) / np.abs(bodies[first]).max()
    assert np.median(rows) < 1e-5
    assert rows.max() < 1e-3
    for name, error in errors.items():
        assert np.linalg.norm(error) < 0.02 * np.linalg.norm(bodies[name])
