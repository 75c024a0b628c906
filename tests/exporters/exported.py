"""The catalogue's encoders, decoder and classifier out of torch's two exporters."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from exporters.export import export, load_weights
from exporters.torch_classifier import ImageClassifier
from exporters.torch_decoder import TextDecoder
from exporters.torch_models import SentenceEncoder, SpeechEncoder

from bitfold.models import efficientnet, minilm, whisper_tiny
from bitfold.models.bert import BertConfig
from bitfold.models.catalogue import fetch
from bitfold.models.ctranslate2_file import CTranslate2File
from bitfold.models.safetensors_file import SafetensorsFile
from bitfold.models.torch_file import read_torch_file
from bitfold.models.whisper_parts import WhisperConfig

Weights = dict[str, np.ndarray]


def sentence_encoder(config: BertConfig, weights: Weights, exporter: str, path: Path) -> Path:
    """A BERT with mean pooling."""
    module = SentenceEncoder(config)
    load_weights(module, weights)
    ids = torch.arange(2 * 9).reshape(2, 9)
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "token_type_ids": torch.zeros_like(ids),
    }
    axes = {name: {0: "batch", 1: "sequence"} for name in inputs}
    outputs = ["last_hidden_state", "sentence_embedding"]
    return export(module, exporter, path, inputs, outputs, axes)


def speech_encoder(config: WhisperConfig, weights: Weights, exporter: str, path: Path) -> Path:
    """Whisper's encoder."""
    module = SpeechEncoder(config)
    load_weights(module, weights)
    mel = {"input_features": torch.zeros(2, config.mels, 2 * config.frames)}
    axes = {"input_features": {0: "batch"}}
    return export(module, exporter, path, mel, ["last_hidden_state"], axes)


def text_decoder(config: WhisperConfig, weights: Weights, exporter: str, path: Path) -> Path:
    """Whisper's decoder with its caches."""
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


def image_classifier(weights: Weights, exporter: str, path: Path) -> Path:
    """EfficientNet-Lite0."""
    module = ImageClassifier()
    load_weights(module, weights)
    inputs = {"input": torch.zeros(2, 3, 224, 224)}
    return export(module, exporter, path, inputs, ["logits"], {"input": {0: "batch"}})


def export_real(name: str, exporter: str, path: Path) -> Path:
    """A model of the catalogue, which is fetched, with its own weights."""
    if name == minilm.ENTRY.name:
        file = SafetensorsFile(fetch(name))
        weights = {each: file.weight(each).numpy() for each in minilm.CONFIG.weight_shapes()}
        return sentence_encoder(minilm.CONFIG, weights, exporter, path)
    if name == whisper_tiny.ENCODER.name:
        weights = _whisper_weights(name, whisper_tiny.CONFIG.encoder_shapes())
        return speech_encoder(whisper_tiny.CONFIG, weights, exporter, path)
    if name == whisper_tiny.DECODER.name:
        weights = _whisper_weights(name, whisper_tiny.CONFIG.decoder_shapes())
        return text_decoder(whisper_tiny.CONFIG, weights, exporter, path)
    assert name == efficientnet.ENTRY.name, name
    return image_classifier(read_torch_file(fetch(name)), exporter, path)


def _whisper_weights(name: str, wanted: Iterable[str]) -> Weights:
    file = CTranslate2File(fetch(name))
    return {each: np.array(whisper_tiny.read_weight(file, each).numpy()) for each in wanted}
