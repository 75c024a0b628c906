"""What the catalogue knows about one published file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath


@dataclass(frozen=True)
class Entry:
    """A file inside a published Python package, pinned by version and hashes.

    Attributes:
        name: how the user names it.
        package: the package that holds it.
        version: the package's version.
        member: the file's path inside the wheel.
        wheel_sha256: the hash of the wheel.
        file_sha256: the hash of the file.
        licence: its licence (an SPDX expression where there is one).
        description: one line for lists.
        pip_options: options that make every machine fetch the same wheel, where the package has
            one a platform.
    """

    name: str
    package: str
    version: str
    member: str
    wheel_sha256: str
    file_sha256: str
    licence: str
    description: str
    pip_options: tuple[str, ...] = ()

    @property
    def file_name(self) -> str:
        """The last part of the member's path."""
        return PurePosixPath(self.member).name


@dataclass(frozen=True)
class ModelEntry(Entry):
    """A model: weights in a format that an importer reads.

    Attributes:
        task: what the model does, such as `text-generation`.
        importer: the name of the importer that reads the file.
    """

    task: str = ""
    importer: str = ""


@dataclass(frozen=True)
class DataEntry(Entry):
    """A data set to calibrate or measure on.

    Attributes:
        kind: what it holds, such as `text`.
    """

    kind: str = ""
