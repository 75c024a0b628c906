"""The command line and the recipe of a report, open for sites to be excluded."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bitfold.frontend.recipes import resolve_recipe
from bitfold.passes.core.recipe import Recipe, format_text, to_toml
from bitfold.runtime.errors import RecipeError

MARK = "sites-excluded-here"
"""Stands where further exclusions go."""


@dataclass(frozen=True)
class Open:
    """A recipe's text, and the same with `quoted` where the ticked sites' globs go."""

    text: str
    template: str
    quoted: str = json.dumps(MARK)


def glob_of(site: str) -> str:
    """The glob that matches this name alone (`fnmatch`)."""
    return re.sub(r"([*?\[])", r"[\1]", site)


def exclusion(site: str) -> str:
    """The option that excludes a site, as a POSIX shell takes it."""
    return f"--exclude={shlex.quote(glob_of(site))}"


def text_item(site: str) -> str:
    """A site's glob as an item of a list in a recipe's text."""
    return json.dumps(glob_of(site))


def toml_item(site: str) -> str:
    """The same in TOML."""
    return json.dumps(glob_of(site), ensure_ascii=False).replace("\x7f", "\\u007f")


def open_forms(recipe: Recipe) -> tuple[Open, Open] | None:
    """The recipe as text and as TOML; None where no pass of it can exclude sites."""
    try:
        marked = resolve_recipe(recipe=recipe, exclude=[MARK])
    except RecipeError:
        return None
    return (
        Open(format_text(recipe), format_text(marked)),
        Open(to_toml(recipe), to_toml(marked)),
    )


def again(
    model: str,
    output: Path | None,
    recipe: Recipe,
    seed: int,
    report: str | os.PathLike[str] | None,
) -> list[str]:
    """The command line that runs a recipe on a model again."""
    words = ["bitfold", "convert", model, f"--output={output or 'converted.onnx'}"]
    words.append(f"--passes={format_text(recipe)}")
    words += [f"--seed={seed}"] if seed else []
    words += [f"--report={os.fspath(report)}"] if report is not None else []
    return [*words, "--force"]


def shell_line(command: Sequence[str]) -> str:
    """A command as a POSIX shell takes it."""
    return shlex.join(command)
