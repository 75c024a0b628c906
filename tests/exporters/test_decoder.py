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
from bitfold.models.whisper_decoder import build_decoder
from bitfold.runtime.session import Session

torch = pytest.importorskip("torch")

from exporters.checks import (  # noqa: E402
    assert_converted_like,
    assert_same_outputs,
    authored_model,
)
from exporters.export import EXPORTERS  # noqa: E402
from exporters.exported import export_real, text_decoder  # noqa: E402

pytestmark = pytest.mark.slow

LIMIT = 2 if os.environ.get("BITFOLD_SHORT") else None


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_small_decoder(exporter: str, tmp_path: Path) -> None:
    weights = draw_weights(WHISPER.decoder_shapes())
    path = text_decoder(WHISPER, weights, exporter, tmp_path / "exported.onnx")
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
    path = export_real(whisper_tiny.DECODER.name, exporter, tmp_path / "decoder.onnx")
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
