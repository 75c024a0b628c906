"""The text form of recipes: ``name{option=value ...}, name, ...`` as plain data.

::

    recipe  = [step {"," step} [","]]
    step    = reference ["{" {key "=" value [","]} "}"]
    value   = word | "quoted" | "[" {value [","]} "]" | "{" {key "=" value [","]} "}"

A reference is a pass's name, ``module:attribute`` or ``path.py:Class``, quoted where it holds
spaces.  ``#`` starts a comment that ends with its line.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, NoReturn

from bitfold.passes.core.options import Word
from bitfold.runtime.errors import RecipeError

_SPACE = re.compile(r"(?:\s|#[^\n]*)*")
_WORD = re.compile(r"[^\s,{}\[\]=\"#]+")
_QUOTED = re.compile(r'"(?:[^"\\\n]|\\.)*"')


@dataclass(frozen=True)
class Step:
    """One pass as it was written: its reference, its options, and where it stood."""

    reference: str
    options: dict[str, Any]
    where: str


def parse_steps(text: str) -> list[Step]:
    """Split a recipe's text into steps; options are :class:`Word`, str, list or dict.

    Raises:
        RecipeError: the line and column, what was expected there and what was found.
    """
    return _Parser(text).recipe()


def quote_reference(reference: str) -> str:
    """A reference as the text form takes it."""
    return reference if _WORD.fullmatch(reference) else json.dumps(reference)


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self._skip_space()

    def recipe(self) -> list[Step]:
        steps = []
        while self.at < len(self.text):
            start = self._position(self.at)
            reference = self._word("a pass name")
            options = self._options() if self._take("{") else {}
            steps.append(Step(str(reference), options, f"{start}, pass {str(reference)!r}"))
            if self.at < len(self.text) and not self._take(","):
                self._fail("',' or the end of the recipe")
        return steps

    def _options(self) -> dict[str, Any]:
        options: dict[str, Any] = {}
        while not self._take("}"):
            start = self.at
            key = self._word("an option or '}'")
            if key in options:
                self.at = start
                self._fail(f"each option once, and {str(key)!r} is there already")
            if not self._take("="):
                self._fail(f"'=' after option {str(key)!r}")
            options[str(key)] = self._value()
            self._take(",")
        return options

    def _value(self) -> Any:
        if self._take("{"):
            return self._options()
        if self._take("["):
            items = []
            while not self._take("]"):
                items.append(self._value())
                if not self._take(",") and self._peek() != "]":
                    self._fail("',' or ']'")
            return items
        return self._word("a value")

    def _word(self, expected: str) -> str:
        quoted = _QUOTED.match(self.text, self.at)
        if quoted:
            try:
                value: str = json.loads(quoted.group())
            except ValueError:
                self._fail("a quoted text with JSON's escapes")
            self._advance(quoted.end())
            return value
        word = _WORD.match(self.text, self.at)
        if not word:
            self._fail(expected)
        self._advance(word.end())
        return Word(word.group())

    def _peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def _take(self, mark: str) -> bool:
        if self._peek() != mark:
            return False
        self._advance(self.at + 1)
        return True

    def _advance(self, at: int) -> None:
        self.at = at
        self._skip_space()

    def _skip_space(self) -> None:
        match = _SPACE.match(self.text, self.at)
        self.at = match.end() if match else self.at

    def _position(self, at: int) -> str:
        line = self.text.count("\n", 0, at) + 1
        column = at - (self.text.rfind("\n", 0, at) + 1) + 1
        return f"recipe line {line}, column {column}"

    def _fail(self, expected: str) -> NoReturn:
        found = repr(self.text[self.at : self.at + 20]) if self._peek() else "the end"
        raise RecipeError(
            f"{self._position(self.at)}: expected {expected}, found {found}",
            hint='a recipe reads: fold-norm-gain, quantize{weights=int4 exclude=["*lm_head*"]}',
        )
