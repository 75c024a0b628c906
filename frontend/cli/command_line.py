"""The command line that a user gave, as words: what a report offers to change and run again."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import click


def given_command(context: click.Context, leave_out: Collection[str] = ()) -> list[str]:
    """The command and those of its options that are not at their defaults.

    Args:
        context: of the command that runs.
        leave_out: names of parameters to leave out.
    """
    words = ["bitfold", context.info_name or ""]
    for parameter in context.command.params:
        name = parameter.name or ""
        value = context.params.get(name)
        if name in leave_out or value is None or value == ():
            continue
        if isinstance(parameter, click.Argument):
            words.append(str(value))
        elif isinstance(parameter, click.Option) and value != parameter.get_default(context):
            words += _option(parameter, value)
    return words


def _option(option: click.Option, value: Any) -> list[str]:
    flag = max(option.opts, key=len)
    if option.is_flag:
        return [flag] if value else list(option.secondary_opts)[:1]
    values = value if option.multiple else [value]
    # One word, so that a value may start with a hyphen.
    return [f"{flag}={_text(each)}" for each in values]


def _text(value: object) -> str:
    return str(value) if isinstance(value, (str, Path, int, float)) else repr(value)
