"""Whisper's decoder with its caches, out of torch's two exporters and out of the catalogue.

A small one with random weights first, then the real one, which is fetched. Skipped without torch.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from support.small_encoders import WHISPER, draw_weights

import bitfold
from bitfold.frontend.evaluate import evaluate
from bitfold.frontend.tasks.whisper import first_feeds, next_feeds
from bitfold.models import whisper_tiny
from bitfold.models.catalogue import fetch
from bitfold.models.ctranslate2_file import CTranslate2File
from bitfold.models.whisper_decoder import build_decoder
from bitfold.models.whisper_parts import WhisperConfig
from bitfold.runtime.session import Session

torch = pytest.importorskip("torch")

from exporters.checks import (  # noqa: E402
    assert_converted_like,
    assert_same_outputs,
    authored_model,
)
from exporters.export import EXPORTERS, export, load_weights  # noqa: E402
from exporters.torch_decoder import TextDecoder  # noqa: E402

pytestmark = pytest.mark.slow

LIMIT = 2 if os.environ.get("BITFOLD_SHORT") else None


def _export(
    config: WhisperConfig, weights: dict[str, np.ndarray], exporter: str, path: Path
) -> Path:
    module = TextDecoder(config)
    load_weights(module, weights)
    # No two axes of one length in the example, nor of length 0 or 1: none is taken for fixed.
    inputs = {
        "input_ids": torch.arange(2 * 3).reshape(2, 3),
        "encoder_hidden_states": torch.zeros(2, 4, config.dim),
    }
    axes = {
        "input_ids": {0: "batch", 1: "length"},
        "encoder_hidden_states": {0: "batch", 1: "new_frames"},
    }
    outputs = ["logits"]
    for i in range(config.layers):
        for part, length, axis in (("decoder", 5, "past"), ("encoder", 7, "past_frames")):
            for kind in ("key", "value"):
                name = f"{i}.{part}.{kind}"
                size = config.dim // config.heads
                inputs[f"past_key_values.{name}"] = torch.zeros(2, config.heads, length, size)
                axes[f"past_key_values.{name}"] = {0: "batch", 2: axis}
                outputs.append(f"present.{name}")
    return export(module, exporter, path, inputs, outputs, axes, listed=4 * config.layers)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_small_decoder(exporter: str, tmp_path: Path) -> None:
    weights = draw_weights(WHISPER.decoder_shapes())
    path = _export(WHISPER, weights, exporter, tmp_path / "exported.onnx")
    authored = tmp_path / "authored.onnx"
    ir.save(build_decoder(WHISPER, weights), authored)
    rng = np.random.default_rng(0)
    states = rng.standard_normal((1, WHISPER.frames, WHISPER.dim)).astype(np.float32)
    session = Session(authored, threads=1)
    first = first_feeds(session, [7, 3, 59, 0], states)
    later = next_feeds([12], states, session.run(first))
    for feeds in (first, later):
        assert_same_outputs(authored, path, feeds, 5e-5)
    low = Session(assert_converted_like(path, authored, tmp_path), threads=1)
    for feeds in (first, later):
        a, b = session.run(feeds)["logits"].ravel(), low.run(feeds)["logits"].ravel()
        assert a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) >= 0.999


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_whisper_decoder_keeps_its_metric(exporter: str, tmp_path: Path) -> None:
    authored = authored_model(whisper_tiny.DECODER.name)
    file = CTranslate2File(fetch(whisper_tiny.DECODER.name))
    weights = {
        name: np.array(whisper_tiny.read_weight(file, name).numpy())
        for name in whisper_tiny.CONFIG.decoder_shapes()
    }
    path = _export(whisper_tiny.CONFIG, weights, exporter, tmp_path / "decoder.onnx")
    for name in ("tokenizer.json", "generation_config.json"):
        shutil.copyfile(authored.with_name(name), tmp_path / name)
    found = evaluate(path, authored, task="transcription", limit=LIMIT).task
    assert found is not None
    assert found.reference is not None
    assert found.score.value == found.reference.value
    assert found.cosine == pytest.approx(1, abs=1e-6)
    made = bitfold.convert(path, tmp_path / "decoder.w8a8.onnx", preset="w8a8")
    assert made.report.rolled_back == []
    assert made.path is not None
    low = evaluate(made.path, path, task="transcription", limit=LIMIT).task
    assert low is not None
    assert low.cosine is not None
    # Rounding may right a word that hangs in the balance, not wrong one.
    assert low.score.value <= found.score.value
    key = "NLL a token"
    assert low.score.details[key] == pytest.approx(found.score.details[key], abs=0.01)
    assert low.outputs["logits"].cosine >= 0.999
    assert low.cosine >= 0.999
