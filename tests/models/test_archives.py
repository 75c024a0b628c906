"""Files out of Debian packages that the tests put together themselves."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from support.wheels import sha256

from bitfold.models.archives import extract
from bitfold.models.catalogue import entry_folder, fetch_entry, is_fetched
from bitfold.models.entry import DataEntry, Member
from bitfold.runtime.errors import BitfoldError, ModelError, UnsupportedError

FILES = {"usr/share/x/words": b"one two", "usr/share/x/sound.wav": b"RIFF" * 500}


def write_deb(path: Path, compression: str = "xz", data_name: str | None = None) -> Path:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=f"w:{compression}") as archive:
        for name, content in FILES.items():
            item = tarfile.TarInfo(f"./{name}")
            item.size = len(content)
            archive.addfile(item, io.BytesIO(content))
    members = {
        "debian-binary": b"2.0\n",
        "control.tar.xz": b"odd",  # of odd length: a byte of padding follows
        data_name or f"data.tar.{compression}": data.getvalue(),
    }
    out = b"!<arch>\n"
    for name, content in members.items():
        header = f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n"
        out += header.encode() + content + b"\n" * (len(content) % 2)
    path.write_bytes(out)
    return path


@pytest.mark.parametrize("compression", ["xz", "gz", "bz2", ""])
def test_members_of_a_deb(tmp_path: Path, compression: str) -> None:
    name = "data.tar" if not compression else None
    deb = write_deb(tmp_path / "x.deb", compression, name)
    targets = {name: tmp_path / str(i) for i, name in enumerate(FILES)}
    extract(deb, targets)
    assert {name: path.read_bytes() for name, path in targets.items()} == FILES


def test_debs_that_cannot_be_read(tmp_path: Path) -> None:
    target = {"usr/share/x/words": tmp_path / "out"}
    deb = write_deb(tmp_path / "x.deb")
    with pytest.raises(ModelError, match="does not hold usr/absent"):
        extract(deb, {"usr/absent": tmp_path / "out"})
    whole = deb.read_bytes()
    for length in range(0, len(whole), 7):
        deb.write_bytes(whole[:length])
        with pytest.raises(ModelError):
            extract(deb, target)
    write_deb(deb, data_name="data.tar.zst")
    with pytest.raises(UnsupportedError, match="no decompressor"):
        extract(deb, target)


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataEntry:
    """An entry whose package a stand-in for apt-get copies from a folder."""
    deb = write_deb(tmp_path / "pool.deb")
    tool = tmp_path / "bin" / "apt-get"
    tool.parent.mkdir()
    tool.write_text(
        "#!/bin/sh\n"
        '[ "$*" = "download --quiet speech=1.0+2" ] || { echo "E: no $*" >&2; exit 100; }\n'
        f'cp "{deb}" speech_1.0+2_all.deb\n'
    )
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("BITFOLD_CACHE", str(tmp_path / "cache"))
    (words, first), (sound, second) = FILES.items()
    return DataEntry(
        name="speech",
        package="speech",
        version="1.0+2",
        member=words,
        package_sha256=sha256(deb.read_bytes()),
        file_sha256=sha256(first),
        more=(Member(sound, sha256(second)),),
        licence="BSD-2-Clause",
        description="speech",
        source="deb",
    )


@pytest.mark.skipif(os.name == "nt", reason="Debian's tools are not on Windows")
def test_fetches_all_files_of_a_deb(entry: DataEntry) -> None:
    assert not is_fetched(entry)
    path = fetch_entry(entry)
    assert path.read_bytes() == FILES[entry.member]
    assert path.with_name("sound.wav").read_bytes() == FILES["usr/share/x/sound.wav"]
    assert is_fetched(entry)
    assert sorted(p.name for p in entry_folder(entry).iterdir()) == ["sound.wav", "words"]


@pytest.mark.skipif(os.name == "nt", reason="Debian's tools are not on Windows")
def test_a_damaged_second_file_is_fetched_again(entry: DataEntry) -> None:
    sound = fetch_entry(entry).with_name("sound.wav")
    sound.write_bytes(b"noise")
    fetch_entry(entry)
    assert sound.read_bytes() == FILES["usr/share/x/sound.wav"]


@pytest.mark.skipif(os.name == "nt", reason="Debian's tools are not on Windows")
def test_what_apt_says_is_told(entry: DataEntry) -> None:
    with pytest.raises(BitfoldError, match=r"apt-get could not download speech 9: E: no download"):
        fetch_entry(replace(entry, version="9"))


def test_without_apt(entry: DataEntry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitfold.models.catalogue.shutil.which", lambda name: None)
    with pytest.raises(UnsupportedError, match="needs apt-get") as caught:
        fetch_entry(entry)
    assert "words, sound.wav" in caught.value.hint
