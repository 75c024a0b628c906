"""The recipe: an ordered list of passes with their options, as Python, text and TOML."""

from __future__ import annotations

import json
import tomllib
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import RewriteRule, RewriteRuleClassBase, RewriteRuleSet

from bitfold.passes.core import options
from bitfold.passes.core.base import Pass, Promise
from bitfold.passes.core.foreign import ForeignPass, wrap
from bitfold.passes.core.recipe_text import Step, parse_steps, quote_reference
from bitfold.passes.core.resolve import reference_of, resolve
from bitfold.runtime.errors import RecipeError


@dataclass(frozen=True)
class Recipe:
    """An ordered list of passes; text and TOML forms read back to an equal recipe.

    Example::

        Recipe.of("fold-norm-gain, quantize{weights=int4}")
        Recipe.of([FoldNormGain(), onnx_ir.passes.common.IdentityEliminationPass(), my_rules])
    """

    passes: tuple[Pass, ...] = ()

    @classmethod
    def of(cls, source: Any) -> Recipe:
        """Make a recipe of a recipe, its text, one pass or rule, or any mixture in a list.

        Raises:
            RecipeError: something in it is not understood.
        """
        if isinstance(source, Recipe):
            return source
        if isinstance(source, str):
            return parse_text(source)
        single = (Pass, ir.passes.PassBase, RewriteRuleSet, RewriteRule)
        if isinstance(source, (*single, type)) or not isinstance(source, Iterable):
            source = [source]
        passes: list[Pass] = []
        for item in source:
            if isinstance(item, (Recipe, str)):
                passes.extend(cls.of(item))
            elif isinstance(item, type) and issubclass(item, Pass):
                passes.append(options.build(item, {}, item.__name__))
            else:
                passes.append(wrap(item))
        return cls(tuple(passes))

    def __iter__(self) -> Iterator[Pass]:
        return iter(self.passes)

    def __len__(self) -> int:
        return len(self.passes)

    def __str__(self) -> str:
        return format_text(self)


def parse_text(text: str, *, allow_code: bool = True) -> Recipe:
    """Read the text form.  ``allow_code``: whether it may name code outside bitfold.

    Raises:
        RecipeError: the position, what was expected and what was found.
    """
    return Recipe(tuple(_make(step, allow_code) for step in parse_steps(text)))


def format_text(recipe: Recipe) -> str:
    """The text form: options at their defaults are left out."""
    return ", ".join(format_pass(item) for item in recipe)


def format_pass(item: Pass) -> str:
    """One pass in the text form: ``quantize{weights=int4 group=32}``."""
    if isinstance(item, ForeignPass):
        written = " ".join(f"{k}={options.format_value(v)}" for k, v in _foreign_options(item))
        reference = item.reference or item.name
    else:
        written = options.format_options(item)
        reference = reference_of(type(item))
    return quote_reference(reference) + (f"{{{written}}}" if written else "")


def from_toml(text: str, *, allow_code: bool = True) -> Recipe:
    """Read the TOML form: one ``[[pass]]`` table a pass, with its ``name`` and its options.

    Raises:
        RecipeError: the table, what was expected and what was found.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"the recipe is no TOML: {error}") from error
    unknown = sorted(set(data) - {"pass"})
    tables = data.get("pass", [])
    if unknown or not isinstance(tables, list):
        raise RecipeError(
            f"expected [[pass]] tables only, found {unknown or type(tables).__name__}",
            # On one line, as hints are printed, and still TOML.
            hint='a recipe reads: pass = [{name = "canonicalize"}, '
            '{name = "quantize", weights = "int4"}], or has a [[pass]] table for each',
        )
    passes = []
    for number, table in enumerate(tables, start=1):
        name = table.get("name") if isinstance(table, dict) else None
        if not isinstance(name, str):
            raise RecipeError(f"[[pass]] number {number}: expected a name, found {name!r}")
        values = {key: value for key, value in table.items() if key != "name"}
        passes.append(_make(Step(name, values, f"[[pass]] number {number}, {name!r}"), allow_code))
    return Recipe(tuple(passes))


def to_toml(recipe: Recipe) -> str:
    """The TOML form: options at their defaults are left out."""
    tables = []
    for item in recipe:
        if isinstance(item, ForeignPass):
            name, pairs = item.reference or item.name, dict(_foreign_options(item))
            hints: dict[str, Any] = {}
        else:
            name, pairs = reference_of(type(item)), options.changed_options(item)
            hints = typing.get_type_hints(type(item))
        lines = ["[[pass]]", f"name = {json.dumps(name, ensure_ascii=False)}"]
        lines += [f"{k} = {_toml(v, hints.get(k, Any))}" for k, v in pairs.items()]
        tables.append("\n".join(lines) + "\n")
    return "\n".join(tables)


def as_options(item: Pass) -> dict[str, Any]:
    """All options of a pass as plain data, for reports."""
    if isinstance(item, ForeignPass):
        return {key: options.plain_value(value) for key, value in _foreign_options(item)}
    names = options.fields_of(type(item))
    return {name: options.plain_value(getattr(item, name)) for name in names}


def _make(step: Step, allow_code: bool) -> Pass:
    target = resolve(step.reference, step.where, allow_code=allow_code)
    if isinstance(target, type) and issubclass(target, Pass):
        made: Pass = options.build(target, step.options, step.where)
        return made
    written = {key: options.guess(value) for key, value in step.options.items()}
    promise = _promise(written.pop("promise", Promise.EXACT.value), step.where)
    if isinstance(target, type) and issubclass(target, ir.passes.PassBase):
        try:
            target = target(**written)
        except TypeError as error:
            raise RecipeError(f"{step.where}: {error}") from error
    elif isinstance(target, type) and issubclass(target, RewriteRuleClassBase):
        target = target.rule()
    elif written:
        raise RecipeError(f"{step.where}: expected no options, found {sorted(written)}")
    if isinstance(target, Pass):
        return target
    try:
        wrapped = wrap(target)
    except RecipeError as error:
        raise RecipeError(f"{step.where}: {error}", error.hint) from error
    assert isinstance(wrapped, ForeignPass)
    pairs = tuple(written.items())
    return ForeignPass(wrapped.target, step.reference, pairs, promise)


def _promise(word: Any, where: str) -> Promise:
    try:
        return Promise(word)
    except ValueError:
        raise RecipeError(
            f"{where}: expected promise=exact or promise=lossy, found {word!r}"
        ) from None


def _foreign_options(item: ForeignPass) -> list[tuple[str, Any]]:
    extra = [("promise", "lossy")] if item.promised is Promise.LOSSY else []
    return [*item.options, *extra]


def _toml(value: Any, kind: Any) -> str:
    if value is None:
        allows_text = kind is Any or str in typing.get_args(kind)
        return "{ none = true }" if allows_text else '"none"'
    plain = options.plain_value(value)
    if isinstance(plain, str) and not isinstance(value, float):
        return json.dumps(plain, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, float):
        return repr(value)
    if isinstance(plain, bool):
        return "true" if plain else "false"
    if isinstance(plain, list):
        return "[" + ", ".join(_toml(item, Any) for item in plain) + "]"
    if isinstance(plain, dict):
        return "{ " + ", ".join(f"{k} = {_toml(v, Any)}" for k, v in plain.items()) + " }"
    return repr(plain)
