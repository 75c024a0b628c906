"""Exact passes leave real models' outputs as they are, up to rounding: each alone, and together.

On the catalogue's models, which are fetched, and their own inputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
import pytest
from support.exact_passes import RECIPES, canonical, changed_by, run_exact
from support.real_models import SHORT
from support.space_checks import CHANGES, assert_exact

from bitfold.frontend.importers.build import build
from bitfold.models.catalogue import MODELS
from bitfold.passes.analysis.spaces.symmetry import Symmetry
from bitfold.passes.core.context import Context, Feeds
from bitfold.passes.core.stage import snapshot
from bitfold.runtime.errors import BitfoldError

pytestmark = pytest.mark.slow

NAMES = ["all-minilm-l6-v2"] if SHORT else [entry.name for entry in MODELS]
CHOSEN = ["all"] if SHORT else list(RECIPES)

Prepared = tuple[str, ir.Model, Sequence[Feeds]]


@pytest.fixture(scope="module", params=NAMES)
def prepared(request: pytest.FixtureRequest) -> Prepared:
    """A model, canonicalized, and its samples."""
    try:
        path = build(request.param)
    except BitfoldError as error:
        if "could not download" in str(error) or "needs apt-get" in str(error):
            pytest.skip(str(error))
        raise
    return request.param, *canonical(path)


@pytest.mark.parametrize("recipe", CHOSEN)
def test_outputs_stay(prepared: Prepared, recipe: str) -> None:
    _, model, samples = prepared
    with Context(samples) as context:
        _, report = run_exact(model, RECIPES[recipe], context)
    assert changed_by(report) or recipe != "all"


@pytest.mark.parametrize("symmetry", CHANGES, ids=lambda each: each.name)
def test_every_space_that_allows_it_can_be_changed(prepared: Prepared, symmetry: Symmetry) -> None:
    """At random, whether it pays or not."""
    _, model, samples = prepared
    assert assert_exact(snapshot(model), samples[-1], symmetry)
