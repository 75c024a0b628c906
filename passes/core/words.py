"""Words for people: what messages and reports say in more than one place."""

from __future__ import annotations


def counted(count: int, noun: str, plural: str = "") -> str:
    """A count with its noun: in the plural, which ends in s unless given, but for just one."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"
