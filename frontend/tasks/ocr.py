"""Reading text: how many drawn words a recognizer reads without a mistake."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitfold.frontend.tasks.pictures import pillow
from bitfold.frontend.tasks.task import Score, Setting
from bitfold.models.ppocr import CHARACTERS_KEY, HEIGHT, WIDTH, decode, read_characters
from bitfold.passes.core.context import Feeds
from bitfold.runtime.errors import UnsupportedError
from bitfold.runtime.session import Session

WORDS = (
    "compiler quantize Rotation 3.14159 Hello, world! outlier channel low-bit (2024) 50% off",
    "Main Street 42 invoice No. 7731 GREEN TEA a*b+c=d user@example.org Zurich museum",
    "The quick brown fox jumps over the lazy dog Pack my box with five dozen liquor jugs",
    "ISBN 978-0-306 $1,299.00 +49 30 1234 12:45 v2.0-rc1 /usr/local [draft] Total: 88.20",
    "University exit left PUSH matrix kernel WARNING ticket gate B12 platform 9 sunrise",
)
"""What is drawn, a word at a time, and then by twos and threes."""

_SIZES = (22, 28, 34)


class Ocr:
    """The share of drawn words that are read exactly, and the character error rate."""

    name = "ocr"
    summary = "drawn words read exactly"

    def feeds(self, session: Session, setting: Setting) -> list[Feeds]:
        """The pictures of words, one at a time."""
        name = _input_name(session)
        return [{name: draw(text, index)} for index, text in enumerate(texts()[: setting.limit])]

    def score(self, session: Session, setting: Setting) -> Score:
        """Draw, read and compare; the errors are insertions, deletions and substitutions.

        Spaces and case do not count, as in the benchmarks of text recognition: a lone "v" looks
        like a "V" of a smaller font, and narrow spaces are a matter of taste.
        """
        characters = read_characters(_characters(session))
        wanted = [plain(text) for text in texts()[: setting.limit]]
        exact = errors = 0
        for index, feeds in enumerate(self.feeds(session, setting)):
            setting.progress("reading", index / len(wanted))
            output = session.outputs[0].name
            found = plain(decode(session.run(feeds, [output])[output], characters)[0])
            exact += found == wanted[index]
            errors += edit_distance(found, wanted[index])
        total = sum(map(len, wanted))
        details = {"exact": float(exact), "character error rate": errors / total}
        return Score(
            "drawn words read", exact / len(wanted), True, len(wanted), details, share=True
        )


def texts() -> list[str]:
    """The texts to draw: every word, every second pair and every third triple of neighbours."""
    words = [word for line in WORDS for word in line.split()]
    pairs = [" ".join(words[i : i + 2]) for i in range(0, len(words) - 1, 2)]
    triples = [" ".join(words[i : i + 3]) for i in range(0, len(words) - 2, 3)]
    return [*words, *pairs, *triples]


def plain(text: str) -> str:
    """A text as it is compared: without spaces and case."""
    return text.replace(" ", "").casefold()


def draw(text: str, index: int) -> np.ndarray:
    """A text as the recognizer reads it: f32[1, 3, 48, width] in -1…1, grey where it ends.

    Size, colours and a little noise depend on the index alone. A text that is wider than the
    narrowest picture of the recognizer gets as wide a picture as it needs.
    """
    image, image_draw, image_font = pillow()
    rng = np.random.default_rng([index, len(text)])
    font = image_font.load_default(_SIZES[index % len(_SIZES)])
    font = font.font_variant(layout_engine=image_font.Layout.BASIC)  # the same on every machine
    paper, ink = int(rng.integers(200, 256)), int(rng.integers(0, 90))
    left, top, right, bottom = font.getbbox(text)
    width = int(right - left) + 12
    line = image.new("L", (width, HEIGHT), paper)
    place = (6 - left, (HEIGHT - (bottom - top)) / 2 - top)
    image_draw.Draw(line).text(place, text, fill=ink, font=font)
    pixels = np.asarray(line, np.float32) + rng.normal(0, 6, (HEIGHT, width))
    padded = np.zeros((1, 3, HEIGHT, max(WIDTH, width)), np.float32)
    padded[..., :width] = np.clip(pixels, 0, 255) / 127.5 - 1
    return padded


def edit_distance(found: Sequence[str], wanted: Sequence[str]) -> int:
    """The fewest insertions, deletions and substitutions between two sequences (Levenshtein)."""
    row = list(range(len(wanted) + 1))
    for i, a in enumerate(found, start=1):
        corner, row[0] = row[0], i
        for j, b in enumerate(wanted, start=1):
            corner, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, corner + (a != b))
    return row[-1]


def _characters(session: Session) -> str:
    if CHARACTERS_KEY not in session.metadata:
        raise UnsupportedError(
            f"{session.path.name} is no recognizer of text: its metadata has no "
            f"{CHARACTERS_KEY!r}, the characters that it reads",
            "choose another task",
        )
    return session.metadata[CHARACTERS_KEY]


def _input_name(session: Session) -> str:
    _characters(session)
    if len(session.inputs) != 1 or len(session.inputs[0].shape) != 4:
        raise UnsupportedError(
            f"{session.path.name} is no recognizer of text: expected one input of rank 4"
        )
    return session.inputs[0].name
