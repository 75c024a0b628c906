"""A pass's options: typed dataclass fields, converted from what a recipe writes and back."""

from __future__ import annotations

import dataclasses
import difflib
import enum
import json
import math
import re
import types
import typing
from typing import Any, Literal, Union

from bitfold.runtime.errors import RecipeError

_BARE = re.compile(r"[A-Za-z0-9_.+\-*?/!@%^~][A-Za-z0-9_.+\-*?/!@%^~:]*")


NONE_TABLE = {"none": True}
"""None in TOML, which lacks it, where ``"none"`` would be text."""


class Word(str):
    """A bare word of a recipe; the option's type says whether it is a number, a name or text."""


def fields_of(cls: type) -> dict[str, dataclasses.Field[Any]]:
    """The options of a pass class, in order of declaration."""
    if not dataclasses.is_dataclass(cls):
        return {}
    return {field.name: field for field in dataclasses.fields(cls) if field.init}


def build(cls: type, options: dict[str, Any], where: str) -> Any:
    """Construct ``cls`` with ``options`` as a recipe wrote them.

    An option is written by its field's name, with ``_`` or ``-``, or by the name in the field's
    ``metadata["alias"]``.

    Raises:
        RecipeError: an unknown or repeated option, or a value that does not fit its type.
    """
    fields = fields_of(cls)
    hints = typing.get_type_hints(cls) if fields else {}
    keys = {field.metadata.get("alias", name): name for name, field in fields.items()}
    keys.update((name, name) for name in fields)
    arguments: dict[str, Any] = {}
    for key, value in options.items():
        name = keys.get(key.replace("-", "_"), keys.get(key))
        if name is None:
            known = ", ".join(sorted(fields))
            expected = f"expected one of: {known}" if known else "expected none: it has no options"
            raise RecipeError(
                f"{where}: unknown option {key!r}; {expected}", _hint(cls, key, list(keys))
            )
        if name in arguments:
            raise RecipeError(f"{where}: option {name!r} is given twice")
        arguments[name] = convert(value, hints[name], f"{where}, option {key!r}")
    try:
        return cls(**arguments)
    except RecipeError:
        raise
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{where}: {error}") from error


def _hint(cls: type, key: str, known: list[str]) -> str:
    if key == "promise" and hasattr(cls, key):
        return "leave it out: a pass written for bitfold says itself what it promises"
    near = difflib.get_close_matches(key, known, n=1)
    return f"did you mean {near[0]!r}?" if near else ""


def check_fields(instance: Any, where: str) -> None:
    """Hold the options of a pass that Python code made to their types, as a recipe's are.

    A list where a tuple is expected, or one item, becomes a tuple.  Options of a type that
    recipes have no form for are left alone.

    Raises:
        RecipeError: an option does not fit its type.
    """
    hints = _hints(type(instance))
    for name in fields_of(type(instance)):
        kind = hints.get(name, Any)
        if kind is Any or not _has_form(kind):
            continue
        value = getattr(instance, name)
        fitting = convert(value, kind, f"{where}, option {name!r}")
        if fitting is not value:
            object.__setattr__(instance, name, fitting)


def changed_options(instance: Any) -> dict[str, Any]:
    """The options of a pass that differ from their defaults, in order of declaration."""
    result = {}
    for name, field in fields_of(type(instance)).items():
        value = getattr(instance, name)
        if field.default is not dataclasses.MISSING:
            default = field.default
        elif field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        else:
            default = dataclasses.MISSING
        # NaN differs from itself; 1 and True, or 1 and 1.0, are equal but not the same option.
        if type(value) is not type(default) or value != default:
            result[name] = value
    return result


def convert(value: Any, kind: Any, where: str) -> Any:
    """Convert what a recipe wrote to the type ``kind``.

    Raises:
        RecipeError: it does not fit; the message says what was expected and what was found.
    """
    try:
        converted = _try_convert(value, kind)
    except RecipeError as error:  # from an option that has options of its own
        raise RecipeError(f"{where}: {error}", error.hint) from error
    if converted is _MISFIT:
        shown = str(value) if isinstance(value, Word) else repr(value)
        raise RecipeError(f"{where}: expected {describe(kind)}, found {shown}")
    return converted


def _hints(cls: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls)
    except NameError:  # a type that only the type checker imports
        return {}


def _has_form(kind: Any) -> bool:
    """Whether :func:`convert` knows the type."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType, tuple, list):
        return all(_has_form(each) for each in arguments if each is not Ellipsis)
    return kind in (Any, None) or origin is Literal or (origin is None and isinstance(kind, type))


_MISFIT: Any = object()
_BOOLS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def _try_convert(value: Any, kind: Any) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return guess(value)
    if kind is None or kind is type(None):
        return None if value is None or value in ("none", NONE_TABLE) else _MISFIT
    if origin in (Union, types.UnionType):
        # A quoted "none" is text where the option may be text; a bare one is None.
        order = sorted(arguments, key=lambda a: (_rank(a, value), arguments.index(a)))
        for argument in order:
            converted = _try_convert(value, argument)
            if converted is not _MISFIT:
                return converted
        return _MISFIT
    if origin is Literal:
        for choice in arguments:
            if _try_convert(value, type(choice)) == choice:
                return choice
        return _MISFIT
    if origin in (tuple, list):
        if isinstance(value, Word) or not isinstance(value, (list, tuple)):
            value = [value]
        if origin is tuple and not (len(arguments) == 2 and arguments[1] is Ellipsis):
            kinds = list(arguments)
        else:
            kinds = [arguments[0]] * len(value)
        if len(kinds) != len(value):
            return _MISFIT
        items = [_try_convert(item, k) for item, k in zip(value, kinds, strict=True)]
        return _MISFIT if any(item is _MISFIT for item in items) else origin(items)
    if isinstance(kind, type):
        return _try_convert_to_class(value, kind)
    return _MISFIT


def _rank(kind: Any, value: Any) -> int:
    if kind is type(None):
        return 0 if isinstance(value, Word) else 2
    return 1 if kind is str and isinstance(value, Word) else 0


def _try_convert_to_class(value: Any, kind: type) -> Any:
    if issubclass(kind, enum.Enum):
        for member in kind:
            if value in (member.value, member.name, member.name.lower()) or value is member:
                return member
        return _MISFIT
    if dataclasses.is_dataclass(kind):
        if isinstance(value, dict):
            return build(kind, value, kind.__name__)
        return value if isinstance(value, kind) else _MISFIT
    word = isinstance(value, Word)
    if kind is bool:
        if isinstance(value, bool):
            return value
        return _BOOLS.get(value.lower(), _MISFIT) if word else _MISFIT
    if kind in (int, float):
        if isinstance(value, bool) or not (word or isinstance(value, (int, kind))):
            return _MISFIT
        try:
            return kind(value)
        except ValueError:
            return _MISFIT
    if kind is str:
        return str(value) if isinstance(value, str) else _MISFIT
    return value if isinstance(value, kind) else _MISFIT


def guess(value: Any) -> Any:
    """The natural reading of a bare word where no type says otherwise."""
    if isinstance(value, list):
        return tuple(guess(item) for item in value)
    if isinstance(value, Word):
        for kind in (type(None), bool, int, float):
            converted = _try_convert(value, kind)
            if converted is not _MISFIT:
                return converted
        return str(value)
    return value


def describe(kind: Any) -> str:
    """A type in words, for messages and for the documentation of options."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is type(None):
        return "none"
    if origin in (Union, types.UnionType):
        return " or ".join(describe(argument) for argument in arguments)
    if origin is Literal:
        return "one of " + ", ".join(str(choice) for choice in arguments)
    if origin in (tuple, list):
        return f"a list of {describe(arguments[0])}"
    if isinstance(kind, type):
        if issubclass(kind, enum.Enum):
            return "one of " + ", ".join(str(member.value) for member in kind)
        if dataclasses.is_dataclass(kind):
            return "{" + " ".join(fields_of(kind)) + "}"
        return {int: "an integer", float: "a number", bool: "true or false", str: "text"}.get(
            kind, kind.__name__
        )
    return str(kind)


def format_value(value: Any, kind: Any = Any) -> str:
    """Write an option's value as recipes do, so that :func:`convert` reads back the same."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, enum.Enum):
        return format_value(value.value, str)
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        bare = _BARE.fullmatch(value) and _reads_back(Word(value), value, kind)
        return value if bare else json.dumps(value)
    if isinstance(value, (tuple, list)):
        arguments = typing.get_args(kind)
        item_kind = arguments[0] if arguments and arguments[-1] is Ellipsis else Any
        return "[" + ", ".join(_format_item(item, item_kind) for item in value) + "]"
    if dataclasses.is_dataclass(value):
        return "{" + format_options(value) + "}"
    raise RecipeError(f"an option of type {type(value).__name__} has no text form: {value!r}")


def _format_item(item: Any, kind: Any) -> str:
    return json.dumps(item) if isinstance(item, str) else format_value(item, kind)


def _reads_back(word: Word, value: str, kind: Any) -> bool:
    converted = _try_convert(word, kind)
    return type(converted) is str and converted == value


def format_options(instance: Any) -> str:
    """``group=32 acts=int8``: the options of a pass that differ from their defaults."""
    hints = typing.get_type_hints(type(instance))
    return " ".join(
        f"{name}={format_value(value, hints[name])}"
        for name, value in changed_options(instance).items()
    )


def plain_value(value: Any) -> Any:
    """An option's value as data that TOML and JSON can hold, None apart."""
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, (tuple, list)):
        return [plain_value(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: plain_value(item) for name, item in changed_options(value).items()}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
