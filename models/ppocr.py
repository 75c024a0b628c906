"""The PP-OCRv4 text recognizer (PaddleOCR; Li et al., 2022, arXiv 2206.03001) as Paddle exports it.

The file is used as it is: opset 12, weights as Constant nodes, and the characters that it reads
in its metadata.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitfold.models.entry import ModelEntry
from bitfold.runtime.errors import ModelError

ENTRY = ModelEntry(
    name="ppocr-rec",
    package="rapidocr-onnxruntime",
    version="1.4.4",
    member="rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
    package_sha256="971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf",
    file_sha256="48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b",
    licence="Apache-2.0",
    description="PP-OCRv4 recognizer: reads a line of text, Chinese and Latin; Paddle's export",
    task="ocr",
    importer="onnx",
)

HEIGHT = 48
"""Height of a line's picture in pixels; its width is free."""
WIDTH = 320
"""The narrowest picture that the recognizer was trained on: shorter lines are filled up."""
CHARACTERS_KEY = "character"
"""The metadata that holds the characters, one a line."""


def read_characters(text: str) -> list[str]:
    """The characters behind the model's classes: class 0 is CTC's blank, the last one a space.

    Args:
        text: the metadata's entry.
    """
    return ["", *text.split("\n"), " "]


def decode(probabilities: np.ndarray, characters: Sequence[str]) -> list[str]:
    """Read each line by greedy CTC: repeats are one character, blanks none (Graves et al., 2006).

    Args:
        probabilities: f32[lines, steps, classes].
        characters: what each class stands for, from `read_characters`.

    Raises:
        ModelError: there are more classes than characters.
    """
    if probabilities.ndim != 3 or probabilities.shape[-1] > len(characters):
        raise ModelError(
            f"expected [lines, steps, {len(characters)}], found {list(probabilities.shape)}"
        )
    lines = []
    for classes in probabilities.argmax(axis=-1):
        new = np.concatenate([[True], classes[1:] != classes[:-1]])
        lines.append("".join(characters[index] for index in classes[new & (classes != 0)]))
    return lines
