"""The largest level of rounded probabilities: known answers, and less lost in attention."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from support.graphs import apply, parse, run

from bitfold.passes.calibrate.magnitudes import Magnitudes
from bitfold.passes.quantize.probability_scale import best_scale, rounded
from bitfold.passes.quantize.quantize_attention import QuantizeAttention
from bitfold.runtime.errors import CalibrationError, RecipeError
from bitfold.runtime.ops.quantize_probabilities import Levels

RNG = np.random.default_rng(0)


def seen(values: np.ndarray) -> Magnitudes:
    found = Magnitudes()
    found.add(values)
    return found


def test_the_levels_are_those_of_the_operator() -> None:
    share = np.array([1, 0.75, 0.7, 0.3, 0.13, 0.09, 0.08, 0.0])
    expected = [1, 1, 0.5, 0.25, 0.125, 0.125, 0, 0]
    np.testing.assert_allclose(rounded(share, "log2", 2), expected)
    np.testing.assert_allclose(rounded(np.array([0.6, 0.2, 0.1]), "uniform", 2), [2 / 3, 1 / 3, 0])


def test_values_that_lie_on_scaled_levels() -> None:
    on_levels = 0.2 * np.exp2(-np.arange(4.0)).repeat([1, 4, 9, 20])
    assert best_scale(seen(on_levels), "log2", 2) == pytest.approx(0.2, rel=0.05)
    even = 0.3 * np.arange(1, 4).repeat(5) / 3
    assert best_scale(seen(even), "uniform", 2) == pytest.approx(0.3, rel=0.05)


def test_a_few_large_ones_are_clipped() -> None:
    values = np.concatenate([np.full(2, 0.9), 0.02 * RNG.random(100000)])
    assert best_scale(seen(values), "uniform", 3) < 0.2
    assert best_scale(Magnitudes(), "uniform", 3) == 1.0


def attention() -> ir.Model:
    return parse(
        "g (float[b, 3, s, 16] q, float[b, 3, s, 16] k, float[b, 3, s, 16] v) => "
        "(float[b, 3, s, 16] y) { y = Attention(q, k, v) }"
    )


def feeds() -> dict[str, np.ndarray]:
    made = {name: RNG.standard_normal((2, 3, 40, 16)).astype(np.float32) for name in "qkv"}
    return made | {"q": made["q"] / 2}


@pytest.mark.parametrize("levels", ["uniform", "log2", "log_sqrt2"])
def test_less_is_lost(levels: Levels) -> None:
    given, other, lost = feeds(), feeds(), {}
    for scale in ("one", "calibrated"):
        model = attention()
        exact = run(model, given)["y"]
        item = QuantizeAttention(probabilities=levels, bits=2, kv=0, scale=scale)
        entry = apply(item, model, [other])
        assert any("largest levels" in note for note in entry.notes) == (scale == "calibrated")
        lost[scale] = float(np.square(run(model, given)["y"] - exact).sum())
    assert lost["calibrated"] < 0.9 * lost["one"]


def test_nothing_to_calibrate_on() -> None:
    item = QuantizeAttention(probabilities="log2", kv=0, scale="calibrated")
    with pytest.raises(CalibrationError, match="needs inputs to see probabilities"):
        apply(item, attention())


def test_levels_without_a_scale() -> None:
    with pytest.raises(RecipeError, match="no scale to calibrate"):
        QuantizeAttention(probabilities="binary", scale="calibrated")
