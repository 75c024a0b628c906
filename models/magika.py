"""Magika (Fratantonio et al., 2024, arXiv 2409.13768) names a file's type from its content.

The file is used as tf2onnx made it, with its labels put into its metadata.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir

from bitfold.models.entry import Member, ModelEntry
from bitfold.runtime.errors import ModelError

LABELS_KEY = "bitfold.labels"
"""The metadata that holds the labels of the classes, one a line."""

BLOCK, PART, PADDING = 4096, 1024, 256
"""Bytes read from either end of a file, tokens made of them, and the token where there are none."""

_CONFIG = Member(
    "magika/models/standard_v3_3/config.min.json",
    "ae24c742205358f6ff6dfd5facb6743fb69743dbba8373e73da58ff0cbd695db",
)


def load_magika(path: Path) -> ir.Model:
    """The model, with the labels of its configuration, which lies beside it, in its metadata.

    Raises:
        ModelError: the configuration names no labels, or describes other inputs.
    """
    config = json.loads((path.parent / _CONFIG.file_name).read_text("utf-8"))
    sizes = tuple(config.get(key) for key in ("block_size", "beg_size", "end_size"))
    labels = config.get("target_labels_space")
    if sizes != (BLOCK, PART, PART) or not labels:
        raise ModelError(f"{_CONFIG.path}: expected sizes {(BLOCK, PART, PART)}, found {sizes}")
    model = ir.load(path)
    model.metadata_props[LABELS_KEY] = "\n".join(labels)
    return model


def file_tokens(content: bytes) -> np.ndarray:
    """A file as the model reads it: i32[2048], a token a byte.

    1. The first half is the file's first 4096 bytes without leading white space, cut to 1024 and
       filled up with padding at the end.
    2. The second half is the last 4096 bytes without trailing white space, its last 1024 bytes,
       filled up at the start.
    """
    start, end = content[:BLOCK].lstrip()[:PART], content[-BLOCK:].rstrip()[-PART:]
    tokens = np.full(2 * PART, PADDING, np.int32)
    tokens[: len(start)] = np.frombuffer(start, np.uint8)
    tokens[2 * PART - len(end) :] = np.frombuffer(end, np.uint8)
    return tokens


ENTRY = ModelEntry(
    name="magika",
    package="magika",
    version="1.0.3",
    member="magika/models/standard_v3_3/model.onnx",
    package_sha256="3e9b49134e8116ee40b431664dcbed9e199413efddcce1a173c734b4e0521529",
    file_sha256="fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c",
    more=(_CONFIG,),
    licence="Apache-2.0",
    description="Magika: tells 214 types of files by their content; tf2onnx's export",
    pip_options=("--python-version=3.11", "--platform=manylinux_2_28_x86_64"),
    task="file-type",
    build=load_magika,
)
