"""The same encoder out of torch's two exporters and out of the catalogue does the same job.

Small networks with random weights first, then the real MiniLM and Whisper encoder, which are
fetched. Needs torch, which bitfold itself does not: skipped without it.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from support.small_encoders import BERT, WHISPER, draw_weights

import bitfold
from bitfold.frontend.evaluate import evaluate
from bitfold.models import whisper_tiny
from bitfold.models.bert import build_bert
from bitfold.models.whisper_encoder import build_encoder

torch = pytest.importorskip("torch")

from exporters.checks import (  # noqa: E402
    assert_converted_like,
    assert_same_outputs,
    authored_model,
)
from exporters.export import EXPORTERS  # noqa: E402
from exporters.exported import export_real, sentence_encoder, speech_encoder  # noqa: E402

pytestmark = pytest.mark.slow

LIMIT = 40 if os.environ.get("BITFOLD_SHORT") else None


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_small_sentence_encoder(exporter: str, tmp_path: Path) -> None:
    weights = draw_weights(BERT.weight_shapes())
    path = sentence_encoder(BERT, weights, exporter, tmp_path / "exported.onnx")
    ir.save(build_bert(BERT, weights), tmp_path / "authored.onnx")
    rng = np.random.default_rng(0)
    ids = rng.integers(0, BERT.vocab, (3, 7))
    keep = np.ones_like(ids)
    keep[1, 4:] = 0
    feeds = {"input_ids": ids, "attention_mask": keep, "token_type_ids": np.zeros_like(ids)}
    assert_same_outputs(tmp_path / "authored.onnx", path, feeds, 2e-5)
    assert_converted_like(path, tmp_path / "authored.onnx", tmp_path)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_small_speech_encoder(exporter: str, tmp_path: Path) -> None:
    weights = draw_weights(WHISPER.encoder_shapes())
    path = speech_encoder(WHISPER, weights, exporter, tmp_path / "exported.onnx")
    ir.save(build_encoder(WHISPER, weights), tmp_path / "authored.onnx")
    mel = np.random.default_rng(0).standard_normal((1, WHISPER.mels, 2 * WHISPER.frames))
    feeds = {"input_features": mel.astype(np.float32)}
    assert_same_outputs(tmp_path / "authored.onnx", path, feeds, 5e-5)
    assert_converted_like(path, tmp_path / "authored.onnx", tmp_path)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_minilm_keeps_its_metric(exporter: str, tmp_path: Path) -> None:
    authored = authored_model("all-minilm-l6-v2")
    path = export_real("all-minilm-l6-v2", exporter, tmp_path / "minilm.onnx")
    shutil.copyfile(authored.with_name("tokenizer.json"), tmp_path / "tokenizer.json")
    found = evaluate(path, authored, task="similarity", limit=LIMIT).task
    assert found is not None
    assert found.reference is not None
    assert found.score.value == pytest.approx(found.reference.value, abs=1e-3)
    assert found.cosine == pytest.approx(1, abs=1e-6)
    bitfold.convert(path, tmp_path / "minilm.w8a8.onnx", preset="w8a8")
    low = evaluate(tmp_path / "minilm.w8a8.onnx", authored, task="similarity", limit=LIMIT).task
    assert low is not None
    assert low.cosine is not None
    assert low.score.value == pytest.approx(found.score.value, abs=0.01)
    assert low.cosine >= 0.999


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_whisper_encoder_keeps_its_metric(exporter: str, tmp_path: Path) -> None:
    authored = authored_model(whisper_tiny.ENCODER.name)
    path = export_real(whisper_tiny.ENCODER.name, exporter, tmp_path / "encoder.onnx")
    bitfold.convert(path, tmp_path / "encoder.w8a8.onnx", preset="w8a8")
    for each in (path, tmp_path / "encoder.w8a8.onnx"):
        limit = 2 if LIMIT else None
        found = evaluate(each, authored, task="transcription", limit=limit).task
        assert found is not None
        assert found.reference is not None
        assert found.cosine is not None
        assert found.score.value <= found.reference.value
        assert found.cosine >= 0.999
