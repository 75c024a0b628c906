"""From what a user asks for (preset, recipe, passes, target, exclusions) to one recipe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from bitfold.frontend.importers import import_model
from bitfold.passes.analysis.sites import find_sites
from bitfold.passes.core.base import Pass
from bitfold.passes.core.foreign import ForeignPass
from bitfold.passes.core.metadata import recipe_of
from bitfold.passes.core.options import fields_of
from bitfold.passes.core.recipe import Recipe, from_toml, parse_text
from bitfold.passes.core.report import Report
from bitfold.passes.presets import preset_named, sized
from bitfold.passes.quantize.quantize import Quantize
from bitfold.runtime.errors import RecipeError
from bitfold.runtime.formats import format_named

DEFAULT_PRESET = "w4a8"


def resolve_recipe(
    *,
    preset: str | None = None,
    recipe: str | Path | Recipe | None = None,
    passes: Any = None,
    size: float | None = None,
    calibrated: bool = False,
    target: str | None = None,
    exclude: Sequence[str] = (),
) -> Recipe:
    """The recipe that a conversion runs.

    Args:
        preset: a preset's name; ``w4a8`` where nothing else is given.
        recipe: a recipe, a ``.toml`` file, or an ``.onnx`` file that bitfold wrote, whose
            recipe is run again.
        passes: the text form, or passes in a list.
        size: megabytes that the file may have; formats are chosen to suit.
        calibrated: whether there are calibration inputs, which presets of less than 8 bits and
            recipes for a size round by.
        target: replaces the ``target`` of every pass that has one.
        exclude: globs of sites, added to the ``exclude`` of every pass that has one.

    Raises:
        RecipeError: several sources at once, one that cannot be read, or a recipe without
            passes; a target that a pass does not know; a target or exclusions where no pass of
            the recipe has that option.
    """
    given = [
        name
        for name, value in {
            "preset": preset,
            "recipe": recipe,
            "passes": passes,
            "size": size,
        }.items()
        if value is not None
    ]
    if len(given) > 1:
        raise RecipeError(
            f"expected one of preset, recipe, passes and size, found {' and '.join(given)}"
        )
    if recipe is not None:
        found = recipe if isinstance(recipe, Recipe) else read_recipe(Path(recipe))
    elif passes is not None:
        found = Recipe.of(passes)
    elif size is not None:
        found = parse_text(sized(size, calibrated))
    else:
        found = parse_text(preset_named(preset or DEFAULT_PRESET))
        found = _by_outputs(found) if calibrated else found
    if not found.passes:
        raise RecipeError(
            "the recipe names no pass",
            "`bitfold passes` lists passes and presets; --preset float quantizes nothing",
        )
    if target is not None:
        found = _adjusted(found, "target", lambda old: target)
    if exclude:
        globs = (exclude,) if isinstance(exclude, str) else tuple(exclude)
        found = _adjusted(found, "exclude", lambda old: (*old, *globs))
    return found


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


def unmatched_globs(report: Report, model: ir.Model) -> list[str]:
    """The exclusions of a recipe that named nothing, in its order.

    An excluded site is still a float one in the result, so that is where its name is looked up.

    Args:
        report: what the recipe did.
        model: the result.
    """
    globs = [glob for entry in report.passes for glob in entry.options.get("exclude", ())]
    sites = list(find_sites(model)) if globs else []
    return [
        glob for glob in dict.fromkeys(globs) if not any(site.matches((glob,)) for site in sites)
    ]


def _by_outputs(recipe: Recipe) -> Recipe:
    """The recipe that rounds weights by GPTQ, where 8 bits do not make that needless."""
    return Recipe(
        tuple(
            replace(item, method="gptq", tokens="uses")
            if isinstance(item, Quantize) and format_named(item.weights).bits < 8
            else item
            for item in recipe
        )
    )


def _adjusted(recipe: Recipe, option: str, change: Callable[[Any], Any]) -> Recipe:
    """The recipe with ``option`` changed in every pass that has it."""

    def has(item: Pass) -> bool:
        # A foreign pass's fields are bitfold's own business, not its options.
        return not isinstance(item, ForeignPass) and option in fields_of(type(item))

    if not any(has(item) for item in recipe):
        raise RecipeError(
            f"{option}: expected a recipe with a pass that has this option, found {recipe}",
            "`bitfold passes NAME` lists the options of a pass",
        )
    return Recipe(
        tuple(
            replace(item, **{option: change(getattr(item, option))})  # type: ignore[type-var]
            if has(item)
            else item
            for item in recipe
        )
    )
