"""``--size``: the file is as small as was asked for, and says by which recipe."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner, Result

from bitfold.frontend.bench import model_bytes
from bitfold.frontend.cli.main import cli
from bitfold.frontend.recipes import resolve_recipe
from bitfold.models.tiny import TINY, sample_feeds
from bitfold.passes.core.metadata import recipe_of
from bitfold.passes.core.recipe import format_text
from bitfold.runtime.errors import RecipeError


def convert(folder: Path, *options: str) -> tuple[Result, Path]:
    model, out = folder / "vit.onnx", folder / "out.onnx"
    ir.save(TINY["vit"](0), model)
    arguments = ["convert", str(model), "-o", str(out), "--verify", "off", "--force", *options]
    return CliRunner().invoke(cli, arguments), out


@pytest.mark.parametrize("calibrated", [False, True])
def test_the_file_fits(calibrated: bool, tmp_path: Path) -> None:
    options = []
    if calibrated:
        np.savez(tmp_path / "in.npz", **sample_feeds("vit", 1))  # type: ignore[arg-type]
        options = ["--calibration", str(tmp_path / "in.npz")]
    done, plain = convert(tmp_path, "--preset", "w3a8")
    assert done.exit_code == 0, done.output
    wanted = model_bytes(plain) * 1.2
    done, out = convert(tmp_path, "--size", str(wanted / 1e6), *options)
    assert done.exit_code == 0, done.output
    assert 0.7 * wanted < model_bytes(out) <= wanted + 4096  # names
    text = format_text(recipe_of(ir.load(out)))
    assert ("method=gptq" in text) == calibrated


def test_a_size_that_nothing_has(tmp_path: Path) -> None:
    done, out = convert(tmp_path, "--size", "0.001")
    assert done.exit_code != 0
    assert "bytes at least" in done.output
    assert not out.exists()


def test_a_size_and_a_preset() -> None:
    with pytest.raises(RecipeError, match="found preset and size"):
        resolve_recipe(preset="w8a8", size=10)
