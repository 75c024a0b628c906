"""What the catalogue knows about published files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import onnx_ir as ir


ENTRY_KEY = "bitfold.entry"
"""The metadata of a built model that names its catalogue entry; a conversion keeps it."""
TASK_KEY = "bitfold.task"
"""The metadata of a built model that names the task that measures it; a conversion keeps it."""


@dataclass(frozen=True)
class Member:
    """One file inside a package.

    Attributes:
        path: where it lies in the package.
        sha256: the hash of the file.
    """

    path: str
    sha256: str

    @property
    def file_name(self) -> str:
        """The last part of the path: the file's name in the cache."""
        return PurePosixPath(self.path).name


@dataclass(frozen=True)
class Entry:
    """Files inside a published package, pinned by version and hashes.

    Attributes:
        name: how the user names it.
        package: the package that holds it.
        version: the package's version.
        member: the main file's path inside the package.
        package_sha256: the hash of the package's file.
        file_sha256: the hash of the main file.
        licence: its licence (an SPDX expression where there is one).
        description: one line for lists.
        pip_options: options that make every machine fetch the same wheel, where the package has
            one a platform.
        more: further files of the package; in the cache they lie beside the main one, hence no
            two may have the same name.
        source: what the package is: a Python ``wheel`` that pip fetches, or a Debian package
            (``deb``) that apt-get fetches.
    """

    name: str
    package: str
    version: str
    member: str
    package_sha256: str
    file_sha256: str
    licence: str
    description: str
    pip_options: tuple[str, ...] = ()
    more: tuple[Member, ...] = ()
    source: Literal["wheel", "deb"] = "wheel"

    @property
    def members(self) -> tuple[Member, ...]:
        """Every file, the main one first."""
        return (Member(self.member, self.file_sha256), *self.more)

    @property
    def file_name(self) -> str:
        """The last part of the main file's path."""
        return self.members[0].file_name


@dataclass(frozen=True)
class ModelEntry(Entry):
    """A model: weights that an importer reads, or that code of the model's own file builds from.

    Attributes:
        task: what the model does and is measured by: the name of a task of the frontend.
        importer: the name of the importer that reads the main file, or empty.
        build: makes the model from the path of the main file, where there is no importer.
        sidecars: writes what belongs beside the model, such as its tokenizer: gets the path of
            the main file and an existing folder.
        revision: raise this when `build` or `sidecars` gives another result: cached models are
            then built again.
    """

    task: str = ""
    importer: str = ""
    build: Callable[[Path], ir.Model] | None = None
    sidecars: Callable[[Path, Path], None] | None = None
    revision: int = 1


@dataclass(frozen=True)
class DataEntry(Entry):
    """A data set to calibrate or measure on.

    Attributes:
        kind: what it holds, such as `text`.
    """

    kind: str = ""
