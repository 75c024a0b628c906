"""Pairs that people rated for similarity, from gensim's test data.

WordSim353 (Finkelstein et al., 2002), SimLex999 (Hill, Reichart and Korhonen, 2015,
arXiv 1408.3456), and the 50 news texts of Lee, Pincombe and Welsh (2005).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from bitfold.models import lee_background
from bitfold.models.entry import Member
from bitfold.runtime.errors import ModelError

_FOLDER = "gensim/test/test_data"

ENTRY = replace(
    lee_background.ENTRY,
    name="rated-pairs",
    member=f"{_FOLDER}/wordsim353.tsv",
    file_sha256="f92a022fc2537793a15bc3a8c162ebcd74990e033a228bb6388cb71e4c0b1e1d",
    more=(
        Member(
            f"{_FOLDER}/simlex999.txt",
            "d5e0501971478a511430ee880bd0121e94ac701ba86d90544d83e6d2ba3db05d",
        ),
        Member(
            f"{_FOLDER}/lee.cor", "a878f9a58f6743c32985c56c2f2f75988386216b38a4023a01fd3bcf7884d93e"
        ),
        Member(
            f"{_FOLDER}/similarities0-1.txt",
            "23762bc6b728897144dda3d324a2c032dc1e059e1009806226d64b6dd123ed79",
        ),
    ),
    description="pairs rated for similarity: WordSim353, SimLex999, 50 Lee news texts",
)

PAIRS = {"WordSim353": "wordsim353.tsv", "SimLex999": "simlex999.txt"}
"""The lists of word pairs, and the files that have them."""


def read_pairs(path: Path) -> list[tuple[str, str, float]]:
    """Pairs of words and how similar people find them, on the list's own scale.

    Args:
        path: a file of two words and a number a line, between tabs; # starts a comment.

    Raises:
        ModelError: a line of another form.
    """
    pairs = []
    for line in path.read_text("utf-8").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        try:
            first, second, rating = line.split("\t")
            pairs.append((first, second, float(rating)))
        except ValueError:
            raise ModelError(f"{path}: expected two words and a number, found {line!r}") from None
    return pairs


def read_documents(path: Path) -> tuple[list[str], np.ndarray]:
    """The news texts, and how similar people find each two of them: f64[n, n] in 0…1.

    Args:
        path: the main file that the catalogue fetched.

    Raises:
        ModelError: the ratings do not fit the texts.
    """
    texts = (path.parent / "lee.cor").read_text("latin-1").splitlines()
    ratings = np.loadtxt(path.parent / "similarities0-1.txt")
    if ratings.shape != (len(texts), len(texts)):
        raise ModelError(
            f"{path.parent}: expected ratings of {len(texts)} texts, found {ratings.shape}"
        )
    return texts, ratings
