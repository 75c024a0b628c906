"""Exact passes and changes of coordinates on random graphs: they are exact, or they refuse."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from support.graphs import apply
from support.random_graphs import random_models
from support.space_checks import CHANGES, change_all, grow_all, run_in_original

from bitfold.passes.analysis.spaces.symmetry import Symmetry
from bitfold.passes.core.base import Pass
from bitfold.passes.core.compare import moved
from bitfold.passes.core.noise import judge_outputs
from bitfold.passes.core.stage import snapshot
from bitfold.passes.fold.fold_norm_gain import FoldNormGain
from bitfold.passes.transform.awq_scale import AwqScale
from bitfold.passes.transform.equalize import Equalize
from bitfold.passes.transform.fp_bias import FpBias
from bitfold.passes.transform.ln_to_rms import LnToRms
from bitfold.passes.transform.reparam_ln import ReparamLn
from bitfold.passes.transform.rotate import Rotate
from bitfold.passes.transform.scale_pairs import ScalePairs
from bitfold.passes.transform.smooth import Smooth

Drawn = tuple[ir.Model, dict[str, np.ndarray]]

PASSES: tuple[tuple[Pass, ...], ...] = (
    (Rotate(),),
    (Rotate(spaces=(), online=("*",)),),
    (FoldNormGain(), LnToRms(), Rotate(online=("*",))),
    (Smooth(weights="int8", act_granularity="token"), AwqScale(weights="int3")),
    (Equalize(data_free=True), ReparamLn(acts="int4", act_granularity="token")),
    (ScalePairs(), FpBias(acts="int4", act_granularity="token")),
)
"""Passes in a row; a new exact pass gets a line."""

TOLERANCE = 2e-4
"""Of the largest value: what float32 leaves of a deep graph whose scales are changed."""

drawn = given(drawn=random_models())


def few(count: int):
    """So many graphs; of many, a few in the slow checks' short form."""
    count = min(count, 30) if os.environ.get("BITFOLD_SHORT") else count
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    return settings(max_examples=count, suppress_health_check=slow)


def check(model: ir.Model, feeds: dict[str, np.ndarray], change: Callable[[], object]) -> None:
    """``change`` leaves the outputs the same, or moves them no further than rounding does.

    Some graphs are nearly singular: a gate that is all but shut, a norm of nearly nothing.
    """
    original, before = snapshot(model), run_in_original(model, feeds)
    change()
    found = run_in_original(model, feeds)
    if max((moved(before[name], found[name]).max_error for name in before), default=0) > TOLERANCE:
        verdict = judge_outputs(original, feeds, before, found, None)
        assert verdict.reason is None, verdict.reason


def check_passes(model: ir.Model, feeds: dict[str, np.ndarray], passes: tuple[Pass, ...]) -> None:
    """Run the passes in a row."""
    check(model, feeds, lambda: [apply(item, model, [feeds]) for item in passes])


def check_changes(model: ir.Model, feeds: dict[str, np.ndarray], symmetry: Symmetry) -> None:
    """Change every space that allows it."""
    check(model, feeds, lambda: change_all(model, symmetry))


def check_growth(model: ir.Model, feeds: dict[str, np.ndarray]) -> None:
    """Give more channels to every space that allows it."""
    check(model, feeds, lambda: grow_all(model))


@drawn
@few(30)
def test_growth(drawn: Drawn) -> None:
    check_growth(*drawn)


@pytest.mark.slow
@drawn
@few(2000)
def test_growth_of_many(drawn: Drawn) -> None:
    check_growth(*drawn)


@pytest.mark.parametrize("symmetry", CHANGES, ids=lambda each: each.name)
@drawn
@few(30)
def test_changes(symmetry: Symmetry, drawn: Drawn) -> None:
    check_changes(*drawn, symmetry)


@pytest.mark.parametrize("passes", PASSES, ids=lambda each: "+".join(p.name for p in each))
@drawn
@few(12)
def test_passes(passes: tuple[Pass, ...], drawn: Drawn) -> None:
    check_passes(*drawn, passes)


@pytest.mark.slow
@pytest.mark.parametrize("symmetry", CHANGES, ids=lambda each: each.name)
@drawn
@few(2000)
def test_changes_of_many(symmetry: Symmetry, drawn: Drawn) -> None:
    check_changes(*drawn, symmetry)


@pytest.mark.slow
@pytest.mark.parametrize("passes", PASSES, ids=lambda each: "+".join(p.name for p in each))
@drawn
@few(1000)
def test_passes_on_many(passes: tuple[Pass, ...], drawn: Drawn) -> None:
    check_passes(*drawn, passes)
