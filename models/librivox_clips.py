"""Five clips of a LibriVox reading of Sense and Sensibility, with their words, from Debian."""

from __future__ import annotations

from pathlib import Path

from bitfold.models.entry import DataEntry, Member
from bitfold.runtime.errors import ModelError

_FOLDER = "usr/share/pocketsphinx/test/data/librivox"

CLIPS = tuple(f"sense_and_sensibility_01_austen_64kb-{number}" for number in (
    "0870", "0880", "0890", "0920", "0930"
))  # fmt: skip
"""The clips' names; each has a file ``<name>.wav``: 16-bit mono at 16 kHz."""

ENTRY = DataEntry(
    name="librivox-clips",
    package="pocketsphinx-testdata",
    version="0.8+5prealpha+1-15",
    member=f"{_FOLDER}/transcription",
    package_sha256="eaeb7a01d54f20b799d1a81ef110ec544b2cb47ea006614078220737a33019f0",
    file_sha256="4cc29e04a6dcd29242893b3ee20470e50b6ace45f4387bb619e5218145c66f99",
    more=(
        Member(
            f"{_FOLDER}/{CLIPS[0]}.wav",
            "b0557cf95c974d930577e58e46b7f068c432a6e3afcc286563d88922b2a5315c",
        ),
        Member(
            f"{_FOLDER}/{CLIPS[1]}.wav",
            "fbec491ef00ee734a67f0ee318e98c51c157b479e1629ff4f4426861ecac0414",
        ),
        Member(
            f"{_FOLDER}/{CLIPS[2]}.wav",
            "5793ffbdee55fb8bfd284943a6866864c832d9d4accf2661cabd39915c84ee10",
        ),
        Member(
            f"{_FOLDER}/{CLIPS[3]}.wav",
            "40882414ef4cc51f3ff7a63bad0c8c87e7f595ffeb8209fbf756c8ebc5c28a59",
        ),
        Member(
            f"{_FOLDER}/{CLIPS[4]}.wav",
            "954adbf0b56ac8a148cbe77b39ca18d76b5f2a1e1f405565bd786ce3e68a68b7",
        ),
    ),
    licence="BSD-2-Clause",
    description="five clips of a LibriVox reading of Sense and Sensibility, with their words",
    source="deb",
    kind="speech",
)


def read_transcripts(path: Path) -> dict[str, str]:
    """The words of each clip by its name, in lower case.

    Args:
        path: the main file that the catalogue fetched; a line is ``<s> words </s> (name)``.

    Raises:
        ModelError: a line of another form.
    """
    found = {}
    for line in path.read_text("utf-8").splitlines():
        words, _, name = line.rpartition("(")
        words = words.strip()
        if not (words.startswith("<s>") and words.endswith("</s>") and name.endswith(")")):
            raise ModelError(f"{path}: expected '<s> words </s> (name)', found {line!r}")
        found[name[:-1]] = words.removeprefix("<s>").removesuffix("</s>").strip()
    return found
