"""Export the tokenizer inside a GGUF file as `tokenizer.json` and small companions."""

from __future__ import annotations

import json
from enum import IntEnum
from pathlib import Path
from typing import Any

from bitfold.frontend.importers.gguf import GgufFile
from bitfold.runtime.errors import ModelError, OutputError, UnsupportedError

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
GENERATION_CONFIG = "generation_config.json"


class TokenType(IntEnum):
    """What a token of a GGUF vocabulary is (`tokenizer.ggml.token_type`)."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


_WORDS_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_WORDS_QWEN2 = _WORDS_LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def _byte_level(use_regex: bool) -> dict[str, Any]:
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": use_regex,
    }


def _split(pattern: str) -> list[dict[str, Any]]:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}
    return [{**split, "invert": False}, _byte_level(use_regex=False)]


_GPT2 = [_byte_level(use_regex=True)]
_DIGITS = [{"type": "Digits", "individual_digits": True}, _byte_level(use_regex=True)]

PRE_TOKENIZERS: dict[str, list[dict[str, Any]]] = {
    "gpt-2": _GPT2,
    "smollm": _DIGITS,
    "starcoder": _DIGITS,
    "refact": _DIGITS,
    "command-r": _DIGITS,
    "llama-bpe": _split(_WORDS_LLAMA3),
    "qwen2": _split(_WORDS_QWEN2),
}
"""How text is cut before the merges, for each value of `tokenizer.ggml.pre`."""

_IGNORE_MERGES = ("llama-bpe",)  # a word that is a token as a whole is never split
_DEFAULT_BOS = ("llama-bpe",)  # these put BOS first unless the file says otherwise


def export_tokenizer(source: Path, folder: Path) -> list[Path]:
    """Write the tokenizer of a GGUF file into a folder.

    Three JSON files: `tokenizer.json` (what the `tokenizers` package loads),
    `tokenizer_config.json` (special tokens by name, whether BOS is added, the chat template) and
    `generation_config.json` (special tokens by id).

    Args:
        source: the GGUF file.
        folder: an existing folder; files of these names in it are replaced.

    Returns:
        The paths written.

    Raises:
        ModelError: the file is broken or its vocabulary inconsistent.
        UnsupportedError: a tokenizer model or pre-tokenizer that is not known.
        OutputError: the folder cannot be written.
    """
    file = GgufFile(source)
    contents = {
        TOKENIZER: tokenizer_json(file),
        TOKENIZER_CONFIG: _tokenizer_config(file),
        GENERATION_CONFIG: _generation_config(file),
    }
    written = []
    for name, content in contents.items():
        path = folder / name
        try:
            path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", "utf-8")
        except OSError as error:
            raise OutputError(f"{path}: cannot be written ({error.strerror})") from error
        written.append(path)
    return written


def tokenizer_json(file: GgufFile) -> dict[str, Any]:
    """The content of `tokenizer.json` for a byte-level BPE tokenizer.

    Raises:
        ModelError: tokens repeat, or a merge names a token that the vocabulary lacks.
        UnsupportedError: another tokenizer model, or an unknown `tokenizer.ggml.pre`.
    """
    pre = _pre(file)
    tokens = _tokens(file)
    vocab = {token: i for i, token in enumerate(tokens)}
    if len(vocab) != len(tokens):
        repeated = next(token for i, token in enumerate(tokens) if vocab[token] != i)
        raise ModelError(f"{file.path}: token {repeated!r} occurs more than once")
    merges = [_merge(file, vocab, merge) for merge in file.require("tokenizer.ggml.merges")]
    types = file.get("tokenizer.ggml.token_type", [TokenType.NORMAL] * len(tokens))
    if len(types) != len(tokens):
        raise ModelError(
            f"{file.path}: expected {len(tokens)} token types, one a token, found {len(types)}"
        )
    added = [
        _added_token(i, tokens[i], special=kind == TokenType.CONTROL)
        for i, kind in enumerate(types)
        if kind in (TokenType.CONTROL, TokenType.USER_DEFINED)
    ]
    pre_tokenizers = PRE_TOKENIZERS[pre]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": pre_tokenizers},
        "post_processor": _post_processor(file, tokens),
        "decoder": _byte_level(use_regex=True),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": pre in _IGNORE_MERGES,
            "vocab": vocab,
            "merges": merges,
        },
    }


def adds_bos(file: GgufFile) -> bool:
    """Whether the model expects the begin-of-sequence token before a text."""
    return bool(file.get("tokenizer.ggml.add_bos_token", _pre(file) in _DEFAULT_BOS))


def _pre(file: GgufFile) -> str:
    model = file.require("tokenizer.ggml.model")
    if model != "gpt2":
        raise UnsupportedError(
            f"{file.path}: tokenizer model {model!r} is not supported",
            hint="supported: gpt2 (byte-level BPE); the model itself can still be imported",
        )
    pre = str(file.require("tokenizer.ggml.pre"))
    if pre not in PRE_TOKENIZERS:
        raise UnsupportedError(
            f"{file.path}: pre-tokenizer {pre!r} is not known",
            hint=f"known: {', '.join(sorted(PRE_TOKENIZERS))}",
        )
    return pre


def _tokens(file: GgufFile) -> list[str]:
    tokens: list[str] = file.require("tokenizer.ggml.tokens")
    return tokens


def _merge(file: GgufFile, vocab: dict[str, int], merge: str) -> list[str]:
    parts = merge.split(" ")
    if len(parts) != 2 or any(part not in vocab for part in [*parts, "".join(parts)]):
        raise ModelError(f"{file.path}: merge {merge!r} does not join two tokens into a third")
    return parts


def _added_token(token_id: int, text: str, special: bool) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": token_id, "content": text, **flags, "special": special}


def _special_ids(file: GgufFile) -> dict[str, int]:
    keys = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    found = {k: file.get(f"tokenizer.ggml.{v}_token_id") for k, v in keys.items()}
    count = len(_tokens(file))
    for kind, token_id in found.items():
        if token_id is not None and not 0 <= token_id < count:
            raise ModelError(f"{file.path}: {kind} token {token_id} is outside 0…{count - 1}")
    return {kind: int(token_id) for kind, token_id in found.items() if token_id is not None}


def _post_processor(file: GgufFile, tokens: list[str]) -> dict[str, Any] | None:
    if not adds_bos(file):
        return None
    ids = _special_ids(file)
    if "bos" not in ids:
        raise ModelError(f"{file.path}: asks for a BOS token first but names none")
    bos = tokens[ids["bos"]]
    first = {"SpecialToken": {"id": bos, "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [first, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [
            first,
            {"Sequence": {"id": "A", "type_id": 0}},
            {"Sequence": {"id": "B", "type_id": 1}},
        ],
        "special_tokens": {bos: {"id": bos, "ids": [ids["bos"]], "tokens": [bos]}},
    }


def _tokenizer_config(file: GgufFile) -> dict[str, Any]:
    tokens = _tokens(file)
    config: dict[str, Any] = {f"{k}_token": tokens[i] for k, i in _special_ids(file).items()}
    config["add_bos_token"] = adds_bos(file)
    config["clean_up_tokenization_spaces"] = False
    context = file.get(f"{file.require('general.architecture')}.context_length")
    if context is not None:
        config["model_max_length"] = int(context)
    template = file.get("tokenizer.chat_template")
    if template is not None:
        config["chat_template"] = template
    return config


def _generation_config(file: GgufFile) -> dict[str, Any]:
    ids = _special_ids(file)
    return {f"{kind}_token_id": ids[kind] for kind in ("bos", "eos", "pad") if kind in ids}
