"""A small trained language model that comes with bitfold: nothing to fetch.

A Llama of 1.4 million parameters over a byte-level BPE of 512 entries, trained by `train.py` on
the language reference in CPython's `pydoc_data.topics`. Random weights lose next to nothing when
they are quantized badly; these have something to lose, and a held-out text to measure it on. The
files beside this one are laid out as a Hugging Face checkpoint; `LICENSE.txt` says where the texts
come from.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir

from bitfold.models.llama import LlamaConfig, build_llama
from bitfold.runtime.errors import UnsupportedError

# Not importlib.resources: a tokenizer needs a path, and in an editable install, whose package
# spans two folders, the data lies beside the source as everywhere else.
_FOLDER = Path(__file__).parent


def config() -> LlamaConfig:
    """Returns the shape of the trained model."""
    found = json.loads((_FOLDER / "config.json").read_text(encoding="utf-8"))
    return LlamaConfig(
        layers=found["num_hidden_layers"],
        dim=found["hidden_size"],
        heads=found["num_attention_heads"],
        kv_heads=found["num_key_value_heads"],
        head_dim=found["head_dim"],
        ffn=found["intermediate_size"],
        vocab=found["vocab_size"],
        rope_base=found["rope_theta"],
        norm_eps=found["rms_norm_eps"],
        tied_head=found["tie_word_embeddings"],
        context=found["max_position_embeddings"],
    )


def load() -> ir.Model:
    """Returns the float model; inputs and outputs are those of `build_llama`.

    The weights are kept as float16 on disk and become float32 when they are read.

    Raises:
        UnsupportedError: the `safetensors` package is not installed.
    """
    return build_llama(config(), _weights())


def tokenizer_path() -> Path:
    """Returns the path of `tokenizer.json`, for the `tokenizers` package."""
    return _FOLDER / "tokenizer.json"


def eval_text() -> str:
    """Returns the held-out text, about 62 KB of UTF-8: the model has not seen a paragraph of it."""
    return _read("eval.txt")


def calibration_text() -> str:
    """Returns 32 KB of the text that the model was trained on, to calibrate with."""
    return _read("calibration.txt")


def _read(name: str) -> str:
    # Bytes, for the line ends must be the same everywhere.
    return (_FOLDER / name).read_bytes().decode("utf-8")


def _weights() -> dict[str, np.ndarray]:
    try:
        from safetensors.numpy import load_file
    except ImportError:
        raise UnsupportedError(
            "reading the trained model needs the safetensors package",
            hint="pip install 'bitfold[models]'",
        ) from None
    weights: dict[str, np.ndarray] = load_file(_FOLDER / "model.safetensors")
    return weights
