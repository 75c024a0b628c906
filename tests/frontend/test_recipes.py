"""From what a user asks for to one recipe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx_ir.passes.common as onnx_ir_passes
import pytest

from bitfold.frontend.recipes import resolve_recipe
from bitfold.passes.core.recipe import Recipe
from bitfold.passes.lower.lower import Lower
from bitfold.passes.presets import PRESETS
from bitfold.passes.quantize.quantize import Quantize
from bitfold.runtime.errors import RecipeError


def test_a_target_that_lower_knows_is_taken() -> None:
    assert resolve_recipe(target="native") == resolve_recipe()


@pytest.mark.parametrize("target", ["bogus", "portable ", ""])
def test_a_target_that_no_pass_knows_is_refused(target: str) -> None:
    with pytest.raises(RecipeError, match=f"option 'target': expected .*'{target}'"):
        resolve_recipe(preset="w8a8", target=target)


@pytest.mark.parametrize("changes", [{"target": "native"}, {"exclude": ["lm_head"]}])
def test_an_option_that_no_pass_has_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=r"expected a recipe with a pass .* found canonicalize"):
        resolve_recipe(passes="canonicalize, fold-batch-norm", **changes)


def test_the_fields_of_foreign_passes_are_not_options() -> None:
    foreign = onnx_ir_passes.IdentityEliminationPass()
    before = Recipe.of([foreign, Lower()])
    assert resolve_recipe(passes=[foreign, Lower()], target="native") == before
    with pytest.raises(RecipeError, match="target"):
        resolve_recipe(passes=[foreign], target="native")


@pytest.mark.parametrize("exclude", ["lm_head", ["lm_head"], ("lm_head",)])
def test_exclusions_are_added_to_those_of_the_recipe(exclude: Any) -> None:
    found = resolve_recipe(passes="quantize{exclude=[a]}, lower", exclude=exclude)
    assert found.passes[0] == Quantize(exclude=("a", "lm_head"))


@pytest.mark.parametrize("passes", ["", " # nothing\n", []])
def test_a_recipe_without_passes_is_refused(passes: Any) -> None:
    with pytest.raises(RecipeError, match="names no pass"):
        resolve_recipe(passes=passes)


def test_an_empty_recipe_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text("# later")
    with pytest.raises(RecipeError, match="names no pass"):
        resolve_recipe(recipe=tmp_path / "r.toml")


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_of_few_bits_round_by_calibration(preset: str) -> None:
    plain, by_outputs = (resolve_recipe(preset=preset, calibrated=each) for each in (False, True))
    assert [type(item) for item in plain] == [type(item) for item in by_outputs]
    for before, after in zip(plain, by_outputs, strict=True):
        if isinstance(before, Quantize):
            assert before.method == "rtn"
            if not preset.startswith("w8"):
                before = replace(before, method="gptq", tokens="uses")
            assert after == before
        else:
            assert after == before
    text = str(plain)
    assert resolve_recipe(passes=text, calibrated=True) == plain, "what is given stays"
