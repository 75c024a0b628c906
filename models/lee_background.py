"""The Lee background corpus: 300 short English news texts (Lee, Pincombe & Welsh, 2005)."""

from __future__ import annotations

from pathlib import Path

from bitfold.models.entry import DataEntry

ENTRY = DataEntry(
    name="lee-background",
    package="gensim",
    version="4.4.0",
    member="gensim/test/test_data/lee_background.cor",
    package_sha256="91a7fa5e814e7b1bad4b2dffa8d62c1e55410d5cbdf930714c1997ffb4404db8",
    file_sha256="5d78d6dafd953bbf65797bef09a9ffb9ec430583381be705f8fd460000f370fb",
    licence="LGPL-2.1-only",
    description="Lee background corpus: 300 short English news texts, 360 kB",
    pip_options=(
        "--python-version=3.11",
        "--implementation=cp",
        "--abi=cp311",
        "--platform=manylinux_2_28_x86_64",
    ),
    kind="text",
)

CALIBRATION = slice(0, 45_000)
"""The bytes to calibrate on."""
EVALUATION = slice(200_000, 245_000)
"""The bytes to measure on: far from the calibration bytes."""


def read_text(path: Path, part: slice) -> str:
    """A part of the corpus as text.

    Args:
        path: the file that the catalogue fetched.
        part: the bytes, `CALIBRATION` or `EVALUATION`; a character cut at either end is dropped.
    """
    return path.read_bytes()[part].decode("utf-8", errors="ignore")
