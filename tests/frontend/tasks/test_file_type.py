"""Made files are what they say, and are read as the model's makers document it."""

from __future__ import annotations

import ast
import csv
import gzip
import io
import json
import tarfile
import wave
import xml.etree.ElementTree as ElementTree
import zipfile

import numpy as np
import pytest

from bitfold.frontend.tasks.made_files import made_files
from bitfold.models.magika import file_tokens

FILES = dict(made_files())


def test_files_are_what_they_say() -> None:
    assert len(FILES) == len(made_files()) == 27
    assert all(len(content) > 150 for content in FILES.values())
    ast.parse(FILES["python"])
    json.loads(FILES["json"])
    ElementTree.fromstring(FILES["xml"])
    assert {len(row) for row in csv.reader(FILES["csv"].decode().splitlines())} == {5}
    assert zipfile.ZipFile(io.BytesIO(FILES["zip"])).testzip() is None
    with tarfile.open(fileobj=io.BytesIO(FILES["tar"])) as archive:
        assert archive.getnames() == ["notes.txt"]
    assert len(gzip.decompress(FILES["gzip"])) == 3000
    with wave.open(io.BytesIO(FILES["wav"])) as sound:
        assert sound.getnframes() == 2000
    assert np.load(io.BytesIO(FILES["npy"])).shape == (20, 30)


@pytest.mark.parametrize("label", ["png", "bmp", "gif"])
def test_pictures_can_be_seen(label: str) -> None:
    image = pytest.importorskip("PIL.Image")
    with image.open(io.BytesIO(FILES[label])) as picture:
        assert picture.format.lower() == label
        assert len(set(picture.convert("L").tobytes())) >= 4


def test_pdf_places_are_right() -> None:
    content = FILES["pdf"]
    start = int(content.split(b"startxref\n")[1].split()[0])
    assert content[start:].startswith(b"xref")
    places = [int(line.split()[0]) for line in content[start:].splitlines()[3:8]]
    assert [content[at : at + 1] for at in places] == [b"1", b"2", b"3", b"4", b"5"]


def test_tokens_of_short_files() -> None:
    tokens = file_tokens(b" \nab c\t ")
    assert tokens.dtype == np.int32
    assert tokens.shape == (2048,)
    # White space goes at the outer end of each half alone.
    assert tokens[:6].tolist() == [
        *b"ab c\t ",
    ]
    assert tokens[-6:].tolist() == [*b" \nab c"]
    assert set(tokens[6:-6].tolist()) == {256}
    assert set(file_tokens(b"").tolist()) == {256}


def test_tokens_of_long_files() -> None:
    content = b"\n" * 4000 + bytes(range(200)) + b"x" * 5000 + b"end" + b" " * 2000
    tokens = file_tokens(content)
    assert tokens[:96].tolist() == list(range(96))  # from 4,096 bytes without their white space
    assert set(tokens[96:1024].tolist()) == {256}
    assert tokens[-3:].tolist() == [*b"end"]
    assert set(tokens[1024:-3].tolist()) == {ord("x")}
