"""Exact passes are exact on graphs as torch's exporters write them: each alone, and together."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from golden.test_exported import FILES, FOLDER, samples
from support.exact_passes import ALONE, TOGETHER, canonical, run_exact
from support.real_models import SHORT

from bitfold.passes.core.context import Context

CHOSEN = ["swin.torchscript", "llama_cache.dynamo"] if SHORT else FILES
"""In the short form: merged and shifted patches, and a decoder with caches."""


def check(file: str, recipe: str) -> None:
    """Outputs stay the same up to rounding, on inputs of two sizes."""
    path = FOLDER / f"{file}.onnx"
    model, inputs = canonical(path, samples(file, ir.load(path)))
    with Context(inputs) as context:
        run_exact(model, recipe, context)


@pytest.mark.slow
@pytest.mark.parametrize("file", CHOSEN)
def test_together(file: str) -> None:
    check(file, TOGETHER["all"])


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ALONE)
@pytest.mark.parametrize("file", CHOSEN[:1] if SHORT else CHOSEN)
def test_alone(file: str, recipe: str) -> None:
    check(file, ALONE[recipe])
