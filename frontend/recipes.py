"""From what a user asks for (preset, recipe, passes, target, exclusions) to one recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bitfold.frontend.importers import import_model
from bitfold.passes.core.base import Pass
from bitfold.passes.core.metadata import recipe_of
from bitfold.passes.core.recipe import Recipe, from_toml, parse_text
from bitfold.passes.presets import preset_named
from bitfold.runtime.errors import RecipeError

DEFAULT_PRESET = "w4a8"


def resolve_recipe(
    *,
    preset: str | None = None,
    recipe: str | Path | Recipe | None = None,
    passes: Any = None,
    target: str | None = None,
    exclude: Sequence[str] = (),
) -> Recipe:
    """The recipe that a conversion runs.

    Args:
        preset: a preset's name; ``w4a8`` where nothing else is given.
        recipe: a recipe, a ``.toml`` file, or an ``.onnx`` file that bitfold wrote, whose
            recipe is run again.
        passes: the text form, or passes in a list.
        target: replaces the ``target`` of every pass that has one.
        exclude: globs of sites, added to the ``exclude`` of every pass that has one.

    Raises:
        RecipeError: several sources at once, or one that cannot be read.
    """
    given = [
        name
        for name, value in (("preset", preset), ("recipe", recipe), ("passes", passes))
        if value is not None
    ]
    if len(given) > 1:
        raise RecipeError(f"expected one of preset, recipe and passes, found {' and '.join(given)}")
    if recipe is not None:
        found = recipe if isinstance(recipe, Recipe) else read_recipe(Path(recipe))
    elif passes is not None:
        found = Recipe.of(passes)
    else:
        found = parse_text(preset_named(preset or DEFAULT_PRESET))
    options: dict[str, Any] = {"target": target} if target else {}
    return Recipe(tuple(_adjusted(item, options, tuple(exclude)) for item in found))


def read_recipe(path: Path) -> Recipe:
    """The recipe in a TOML file, or the one that made an ONNX file.

    Raises:
        RecipeError: there is no such file, or no recipe in it.
    """
    if not path.is_file():
        raise RecipeError(
            f"there is no recipe file {path}",
            "give a .toml file or a model that bitfold wrote; --passes takes a recipe's text",
        )
    if path.suffix == ".onnx":
        return recipe_of(import_model(path))
    return from_toml(path.read_text())


def _adjusted(item: Pass, options: dict[str, Any], exclude: tuple[str, ...]) -> Pass:
    names = {field.name for field in dataclasses.fields(item)}  # type: ignore[arg-type]
    changes = {key: value for key, value in options.items() if key in names}
    if exclude and "exclude" in names:
        changes["exclude"] = (*getattr(item, "exclude", ()), *exclude)
    return dataclasses.replace(item, **changes) if changes else item  # type: ignore[type-var]
