"""Word errors: how many words one text needs changed to become another."""

from __future__ import annotations

import re
from collections.abc import Sequence


def plain_words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation; compounds are several words.

    Abbreviations stay as they are: "Mr." is not the "mister" of a transcript.
    """
    return re.findall(r"[^\W_]+(?:'[^\W_]+)*", text.lower().replace("\u2019", "'"))


def count_word_errors(reference: Sequence[str], found: Sequence[str]) -> int:
    """The fewest insertions, deletions and substitutions from one list of words to another.

    Levenshtein's distance (1966) by the row-wise algorithm of Wagner and Fischer (1974).
    """
    row = list(range(len(found) + 1))
    for i, expected in enumerate(reference, 1):
        diagonal, row[0] = row[0], i
        for j, word in enumerate(found, 1):
            best = min(row[j] + 1, row[j - 1] + 1, diagonal + (word != expected))
            diagonal, row[j] = row[j], best
    return row[-1]
