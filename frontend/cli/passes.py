"""``bitfold passes``."""

from __future__ import annotations

import inspect
import re
import textwrap
import typing
from typing import TYPE_CHECKING, Any

import click

from bitfold.frontend.cli.options import examples, json_option
from bitfold.frontend.cli.output import make_table, print_json, print_table

if TYPE_CHECKING:
    from bitfold.passes.core.base import Pass

_SECTION = re.compile(r"^(Args|Attributes|Raises|Returns):\n", re.MULTILINE)
"""The head of a docstring's section."""


@click.command(
    epilog=examples("bitfold passes", "bitfold passes quantize", "bitfold passes quantize --json")
)
@click.argument("name", required=False)
@json_option
def passes(name: str | None, as_json: bool) -> None:
    """List passes and presets, or describe the pass NAME.

    The description lists the options, what each expects and its default.
    """
    from bitfold.passes.core.resolve import resolve
    from bitfold.passes.presets import PRESETS
    from bitfold.passes.registry import PASSES

    if name is not None:
        found = resolve(name, f"pass {name!r}")
        if as_json:
            print_json(pass_facts(found))
        else:
            _print_pass(found)
        return
    if as_json:
        print_json({"passes": [pass_facts(each) for each in PASSES], "presets": PRESETS})
        return
    table = make_table("pass", "promise", "what it does")
    for each in PASSES:
        table.add_row(each.name, each.promise.value, _summary(each))
    print_table(table)
    table = make_table("preset", "recipe")
    for preset, recipe in PRESETS.items():
        table.add_row(preset, recipe)
    print_table(table)


def pass_facts(cls: type[Pass]) -> dict[str, Any]:
    """A pass's name, promise, documentation and options, ready for JSON."""
    import dataclasses

    from bitfold.passes.core.options import describe, fields_of, format_value

    hints = typing.get_type_hints(cls)
    documented = _attributes(inspect.getdoc(cls) or "")
    options = []
    for name, field in fields_of(cls).items():
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        required = default is dataclasses.MISSING
        options.append(
            {
                "name": name,
                "type": describe(hints[name]),
                "default": None if required else format_value(default, hints[name]),
                "doc": documented.get(name, ""),
            }
        )
    return {
        "name": cls.name,
        "promise": cls.promise.value,
        "summary": _summary(cls),
        "doc": inspect.getdoc(cls) or "",
        "options": options,
    }


def _print_pass(cls: type[Pass]) -> None:
    facts = pass_facts(cls)
    told = _SECTION.split(facts["doc"])[0].rstrip().replace("``", "`")
    click.echo(f"{facts['name']} ({facts['promise']})\n\n{told}\n")
    if not facts["options"]:
        click.echo("It has no options.")
        return
    table = make_table("option", "default", "expects", "what it is")
    for option in facts["options"]:
        table.add_row(option["name"], option["default"] or "", option["type"], option["doc"])
    print_table(table)


def _attributes(doc: str) -> dict[str, str]:
    """What a docstring's `Attributes:` section says of each."""
    parts = _SECTION.split(doc)
    if "Attributes" not in parts[1::2]:
        return {}
    text = textwrap.dedent(parts[2 * parts[1::2].index("Attributes") + 2])
    items = re.split(r"^(\w+): ", text, flags=re.MULTILINE)
    found = zip(items[1::2], items[2::2], strict=True)
    return {name: " ".join(told.split()).replace("``", "`") for name, told in found}


def _summary(cls: type[Pass]) -> str:
    return (inspect.getdoc(cls) or "").split("\n\n")[0].replace("\n", " ").replace("``", "`")
