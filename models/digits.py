"""1,797 handwritten digits of 8 x 8 pixels: the test set of UCI's optdigits (Alpaydin, 1998).

scikit-learn's wheel has a copy: one line for each picture, its pixels (0 to 16) and its class.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

from bitfold.models.entry import DataEntry

ENTRY = DataEntry(
    name="digits",
    package="scikit-learn",
    version="1.7.2",
    member="sklearn/datasets/data/digits.csv.gz",
    package_sha256="89877e19a80c7b11a2891a27c21c4894fb18e2c2e077815bcade10d34287b20d",
    file_sha256="09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22",
    licence="CC-BY-4.0",
    description="1,797 handwritten digits of 8 x 8 pixels with their classes, 58 kB",
    pip_options=(
        "--python-version=3.11",
        "--implementation=cp",
        "--abi=cp311",
        "--platform=manylinux2014_x86_64",
    ),
    kind="images",
)

TRAINING = slice(0, 1400)
"""The pictures to learn from."""
EVALUATION = slice(1400, None)
"""The pictures to measure on."""


def read_digits(path: Path, part: slice) -> tuple[np.ndarray, np.ndarray]:
    """Some of the pictures, float32 [n, 64] from 0 to 1, and their classes, int64 [n].

    Args:
        path: the file that the catalogue fetched.
        part: the pictures, `TRAINING` or `EVALUATION`.
    """
    with gzip.open(path, "rt") as lines:
        table = np.loadtxt(lines, delimiter=",", dtype=np.int64)[part]
    return (table[:, :-1] / 16).astype(np.float32), table[:, -1]
