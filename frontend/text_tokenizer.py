"""The tokenizer that lies beside a language model: `tokenizer.json` and its small companions."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from bitfold.frontend.importers.tokenizer import GENERATION_CONFIG, TOKENIZER, TOKENIZER_CONFIG
from bitfold.runtime.errors import ModelError, UnsupportedError

_UNFINISHED = "\ufffd"
"""What a decoder writes for a character of which some bytes are still to come."""


class TextTokenizer:
    """Text to token ids and back.

    Attributes:
        stop_ids: tokens that end a text.
        bos_id: the token that starts a text, or None.
        adds_bos: whether the model expects that token before every text.
        context: the longest text that the model was trained for, in tokens, or None.

    Args:
        folder: holds ``tokenizer.json``, and may hold ``tokenizer_config.json`` and
            ``generation_config.json``, in the layout of Hugging Face.

    Raises:
        UnsupportedError: the `tokenizers` package is missing.
        ModelError: there is no tokenizer, or it is broken.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        path = Path(folder) / TOKENIZER
        if not path.is_file():
            raise ModelError(
                f"{path}: no such file",
                "text needs the model's tokenizer.json beside the model file",
            )
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise UnsupportedError(
                "reading text needs the package tokenizers", "pip install 'bitfold[models]'"
            ) from None
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the package raises bare Exceptions
            raise ModelError(f"{path}: broken tokenizer ({error})") from error
        config = _read_json(path.with_name(TOKENIZER_CONFIG))
        generation = _read_json(path.with_name(GENERATION_CONFIG))
        self.bos_id = self._id(generation.get("bos_token_id", config.get("bos_token")))
        self.adds_bos = bool(config.get("add_bos_token", False)) and self.bos_id is not None
        stops = generation.get("eos_token_id", config.get("eos_token"))
        stops = stops if isinstance(stops, list) else [stops]
        self.stop_ids = frozenset(i for i in map(self._id, stops) if i is not None)
        length = config.get("model_max_length")
        self.context = int(length) if isinstance(length, int | float) and length < 1e9 else None

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """The token ids of a text; with ``special``, the tokens that start a text come first."""
        return list(self._tokenizer.encode(text, add_special_tokens=special).ids)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids, without special tokens."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def stream(self, ids: Iterable[int]) -> Iterator[str]:
        """The text of ids as it grows, in pieces that are whole characters."""
        pending: list[int] = []
        before = ""
        for token in ids:
            pending.append(token)
            text = self.decode(pending)
            if text.endswith(_UNFINISHED):
                continue
            if len(text) > len(before):
                yield text[len(before) :]
            # One token of context stays, because the space before a word belongs to the pair.
            pending = pending[-1:]
            before = self.decode(pending)
        rest = self.decode(pending)[len(before) :]
        if rest:
            yield rest

    def _id(self, token: Any) -> int | None:
        """The id of a token given as its id, its text or the dictionary that holds its text."""
        if isinstance(token, dict):
            token = token.get("content")
        if isinstance(token, str):
            return self._tokenizer.token_to_id(token)
        return token if isinstance(token, int) else None


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is no JSON ({error})") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content
