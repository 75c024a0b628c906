"""Small sentence encoders and speech models with random weights, and files that hold them."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from bitfold.models.bert import BertConfig
from bitfold.models.whisper_parts import WhisperConfig

BERT = BertConfig(layers=2, dim=24, heads=3, ffn=40, vocab=50, positions=20)
WHISPER = WhisperConfig(
    layers=2, dim=24, heads=3, ffn=40, vocab=60, mels=5, frames=12, positions=16
)


def draw_weights(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, np.ndarray]:
    """Weights of a sensible size: norms near 1, the rest about 1/√inputs; exact in float16."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, shape in shapes.items():
        array = rng.standard_normal(shape)
        if len(shape) > 1:
            array *= 2 * np.prod(shape[1:]) ** -0.5
        elif name.endswith("norm.weight") or name.endswith("Norm.weight"):
            array = 1 + array / 8
        found[name] = array.astype(np.float16).astype(np.float32)
    return found


def write_ctranslate2(
    path: Path,
    variables: dict[str, np.ndarray],
    aliases: dict[str, str] | None = None,
    spec: str = "WhisperSpec",
    version: int = 6,
) -> Path:
    """A `model.bin` written down from the layout's description."""

    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    kinds = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}
    out = struct.pack("<I", version) + text(spec) + struct.pack("<II", 3, len(variables))
    for name, array in variables.items():
        out += text(name) + struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
        out += struct.pack("<BI", kinds[str(array.dtype)], array.nbytes) + array.tobytes()
    out += struct.pack("<I", len(aliases or {}))
    for alias, target in (aliases or {}).items():
        out += text(alias) + text(target)
    path.write_bytes(out)
    return path
