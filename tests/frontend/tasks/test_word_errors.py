"""Counting word errors, by hand and by the distance's definition."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitfold.frontend.tasks.word_errors import count_word_errors, plain_words

WORDS = st.lists(st.sampled_from("abc"), max_size=6)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (" He was not an ill-disposed young man.", "he was not an ill disposed young man"),
        ("It\u2019s Fanny's \u201cown\u201d\u2026", "it's fanny's own"),
        ("'quoted' 3 times, naïve_ly", "quoted 3 times naïve ly"),
        ("", ""),
    ],
)
def test_plain_words(text: str, words: str) -> None:
    assert plain_words(text) == words.split()


@pytest.mark.parametrize(
    ("reference", "found", "errors"),
    [
        ("a b c d", "a b c d", 0),
        ("a b c d", "a x c d", 1),
        ("a b c d", "b c d", 1),
        ("a b c d", "a b b c d", 1),
        ("a b c d", "", 4),
        ("", "a b", 2),
        ("a b c d", "d c b a", 4),
    ],
)
def test_known_counts(reference: str, found: str, errors: int) -> None:
    assert count_word_errors(reference.split(), found.split()) == errors


@given(WORDS, WORDS)
def test_equals_the_recursive_definition(a: list[str], b: list[str]) -> None:
    @cache
    def distance(i: int, j: int) -> int:
        if i == 0 or j == 0:
            return i + j
        return min(
            distance(i - 1, j) + 1,
            distance(i, j - 1) + 1,
            distance(i - 1, j - 1) + (a[i - 1] != b[j - 1]),
        )

    assert count_word_errors(a, b) == distance(len(a), len(b))
