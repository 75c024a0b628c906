"""Where an emitted model came from: recipe, seed and versions, kept in its metadata."""

from __future__ import annotations

import importlib.metadata
import json

import onnx_ir as ir

import bitfold
from bitfold.passes.core.recipe import Recipe, format_text, parse_text
from bitfold.runtime.errors import RecipeError

RECIPE, SEED, VERSIONS = "bitfold.recipe", "bitfold.seed", "bitfold.versions"
SAMPLES = "bitfold.samples"
"""What statistics were taken from; only in models that depend on it."""

_DISTRIBUTIONS = ("onnx", "onnxruntime", "onnx-ir", "onnxscript", "numpy")


def versions() -> dict[str, str]:
    """Versions of bitfold and of what decides its results."""
    found = {"bitfold": str(bitfold.__version__)}
    for name in _DISTRIBUTIONS:
        try:
            found[name.replace("-", "_")] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name.replace("-", "_")] = "unknown"
    return found


def write_provenance(model: ir.Model, recipe: Recipe, seed: int, samples: str = "") -> None:
    """Write recipe, seed and versions into ``model.metadata_props``.

    Args:
        samples: what passes took statistics from; empty where the result does not depend on it.
    """
    model.metadata_props.pop(SAMPLES, None)
    if samples:
        model.metadata_props[SAMPLES] = samples
    model.metadata_props[RECIPE] = format_text(recipe)
    model.metadata_props[SEED] = str(seed)
    model.metadata_props[VERSIONS] = json.dumps(versions(), sort_keys=True)


def recipe_of(model: ir.Model, *, allow_code: bool = False) -> Recipe:
    """The recipe that made ``model``.

    Args:
        allow_code: whether the recipe may name code outside bitfold, which importing runs.

    Raises:
        RecipeError: the model carries no recipe, or one that this bitfold does not understand.
    """
    text = model.metadata_props.get(RECIPE)
    if text is None:
        raise RecipeError(
            f"expected a recipe in the model's metadata ({RECIPE}), found none",
            hint="only models that bitfold wrote carry one",
        )
    return parse_text(text, allow_code=allow_code)


def seed_of(model: ir.Model) -> int:
    """The seed that ``model`` was made with, or 0."""
    text = model.metadata_props.get(SEED, "0")
    try:
        return int(text)
    except ValueError:
        raise RecipeError(f"expected an integer in {SEED}, found {text!r}") from None


def other_samples(recorded: ir.Model, model: ir.Model) -> str | None:
    """What to tell of ``model``, made by the recipe of ``recorded`` on other samples.

    None where both took their statistics from the same ones.
    """
    before, now = (each.metadata_props.get(SAMPLES, "none") for each in (recorded, model))
    if before == now:
        return None
    return (
        f"statistics were taken from other samples than in the recorded conversion ({_short(now)}, "
        f"there {_short(before)}): the result is not the same"
    )


def _short(samples: str) -> str:
    """A digest's first digits do."""
    return " ".join(word[:12] for word in samples.split())
