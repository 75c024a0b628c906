"""What long work found, kept in a folder under a key of all that it depends on."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bitfold.passes.core.plain_data import Plain, from_plain, to_plain

Note = Callable[[str], None]
"""Takes a line of text for the report."""


class Store:
    """A folder of results, a file each; whoever wants the space deletes it.

    A result is found only by whoever asks with the same key, so that a key must name all that
    decides it.  A file that was cut short, changed or put there by others is passed over, and a
    folder that cannot be written is done without: both with a note.

    Args:
        folder: need not exist.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._writes = True

    def get(self, key: str, classes: tuple[type, ...], note: Note) -> Any | None:
        """What was put under ``key``, or None.

        Args:
            classes: dataclasses that it may hold.
        """
        path = self._path(key)
        try:
            digest, _, body = path.read_bytes().partition(b"\n")
        except FileNotFoundError:
            return None
        except OSError as error:
            note(f"the cache's file {path} cannot be read ({error.strerror or error})")
            return None
        if hashlib.sha256(body).hexdigest().encode() != digest:
            note(f"the cache's file {path} is damaged, and was passed over")
            return None
        header, _, payload = body.partition(b"\n")
        try:
            found = json.loads(header)
            if found["key"] != key:
                raise ValueError("it is of another key")
            return from_plain(Plain(found["value"], found["arrays"], payload), classes)
        except (ValueError, KeyError, TypeError) as error:
            note(f"the cache's file {path} is no such result ({error}), and was passed over")
            return None

    def put(self, key: str, value: Any, note: Note) -> None:
        """Keep ``value`` under ``key``: it appears whole or not at all.

        Args:
            value: of dataclasses, arrays, sequences, text, numbers and None.
        """
        if not self._writes:
            return
        plain = to_plain(value)
        header = {"key": key, "value": plain.value, "arrays": plain.arrays}
        body = json.dumps(header).encode() + b"\n" + plain.payload
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.folder, prefix=".part-") as scratch:
                part = Path(scratch) / "part"
                part.write_bytes(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
                os.replace(part, self._path(key))
        except OSError as error:
            self._writes = False
            reason = error.strerror or error
            note(f"the cache {self.folder} cannot be written ({reason}): going on without it")

    def _path(self, key: str) -> Path:
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:40]}.bitfold"
