"""Counts read well."""

from __future__ import annotations

import pytest

from bitfold.passes.core.words import counted


@pytest.mark.parametrize(
    ("count", "plural", "text"),
    [
        (0, "", "0 sites"),
        (1, "", "1 site"),
        (2, "", "2 sites"),
        (1, "places", "1 site"),
        (5, "places", "5 places"),
    ],
)
def test_one_is_no_plural(count: int, plural: str, text: str) -> None:
    assert counted(count, "site", plural) == text
