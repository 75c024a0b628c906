"""``static-inputs``: known ranges, and one scale for all on every target."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from support.graphs import apply, census, parse, run

from bitfold.passes.calibrate.magnitudes import Magnitudes
from bitfold.passes.lower.lower import Lower
from bitfold.passes.quantize.quantize import Quantize
from bitfold.passes.quantize.static_inputs import StaticInputs
from bitfold.runtime.errors import CalibrationError, RecipeError, UnsupportedError

RNG = np.random.default_rng(0)


def seen(*parts: np.ndarray) -> Magnitudes:
    found = Magnitudes()
    for part in parts:
        found.add(part.astype(np.float32))
    return found


def squared_error(values: np.ndarray, clip: float) -> float:
    step = clip / 127
    return float(np.square(np.rint(np.clip(values / step, -127, 127)) * step - values).sum())


def test_percentiles_are_within_a_bin() -> None:
    values = RNG.uniform(-1, 1, 100_000)
    found = seen(values[:500], values[500:])
    assert found.largest == pytest.approx(np.abs(values).max())
    for share in (0.5, 0.9, 0.99):
        assert share <= found.percentile(share) <= share * 2 ** (1 / 16) * 1.01
    assert found.percentile(1.0) == found.largest


@pytest.mark.parametrize("name", ["uniform", "normal", "heavy", "one outlier"])
def test_the_best_clip_loses_about_the_least(name: str) -> None:
    values = {
        "uniform": RNG.uniform(-3, 3, 20_000),
        "normal": RNG.standard_normal(20_000),
        "heavy": RNG.standard_t(2, 20_000),
        "one outlier": np.append(RNG.standard_normal(20_000), 5e3),
    }[name].astype(np.float32)
    clip = seen(values).best_clip(127)
    least = min(squared_error(values, c) for c in np.geomspace(0.5, np.abs(values).max(), 300))
    assert squared_error(values, clip) < 1.1 * least


def test_nothing_but_zeros() -> None:
    found = seen(np.zeros(10))
    assert (found.largest, found.percentile(0.9), found.best_clip(127)) == (0, 0, 0)


WEIGHT = RNG.standard_normal((48, 64)).astype(np.float32)
ROWS = RNG.standard_normal((40, 64)).astype(np.float32)


def model() -> ir.Model:
    return parse(
        "g (float[n, 64] x) => (float[n, 48] y) { b = Tanh(x) t = Transpose <perm=[1, 0]> (w) "
        "y = MatMul(b, t) }",
        w=WEIGHT,
    )


def static(clip: str = "minmax", acts: str = "int8") -> ir.Model:
    made = model()
    apply(Quantize(weights="int8", group=0, acts=acts, act_granularity="token"), made)
    entry = apply(StaticInputs(clip=clip), made, [{"x": ROWS}])
    assert (entry.status == "applied") == (acts == "int8")
    return made


@pytest.mark.parametrize("target", ["native", "portable", "ort"])
def test_targets_agree_with_the_scheme(target: str) -> None:
    """Rows that go beyond what calibration saw are clipped."""
    made = static()
    (found,) = [v for v in made.graph.initializers.values() if "static_scale" in str(v.name)]
    assert found.const_value is not None
    scale = found.const_value.numpy()
    reach = np.abs(np.tanh(ROWS)).max()
    assert scale == pytest.approx(reach / 127)
    rows = np.concatenate([ROWS, 50 * ROWS[:1]])
    levels = np.rint(np.clip(np.tanh(rows) * (np.float32(1) / scale), -127, 127))
    neutral = run(made, {"x": rows})["y"]
    expected = (levels * scale) @ WEIGHT.T
    assert np.abs(neutral - expected).max() < 0.01 * np.abs(expected).max()
    if target == "ort":
        with pytest.raises(UnsupportedError, match="static"):
            apply(Lower(target="ort"), made)
    entry = apply(Lower(target=target, emulate=target == "ort"), made)
    if target == "native":
        assert census(made) == {"Tanh": 1, "LowBitMatMul": 1}
        assert made.graph[-1].inputs[9] is found
    if target == "ort":
        assert "emulated" in entry.changes[0].text
    assert np.abs(run(made, {"x": rows})["y"] - neutral).max() < 1e-5 * np.abs(neutral).max()


def test_clipping_an_outlier_pays() -> None:
    rows = ROWS.copy()
    rows[0, 0] = 3000
    exact, errors = rows[1:] @ WEIGHT.T, {}
    for clip in ("minmax", "percentile", "mse"):
        made = parse("g (float[n, 64] x) => (float[n, 48] y) { y = MatMul(x, w) }", w=WEIGHT.T)
        apply(Quantize(weights="int8", group=0, act_granularity="token"), made)
        apply(StaticInputs(clip=clip, percentile=99.9), made, [{"x": rows}])
        errors[clip] = np.square(run(made, {"x": rows[1:]})["y"] - exact).sum()
    assert errors["percentile"] < 0.01 * errors["minmax"]
    # One square of 3000 outweighs the others' rounding: the least squares cover it.
    assert errors["mse"] <= errors["minmax"]


def test_what_it_skips() -> None:
    made = model()
    apply(Quantize(weights="int8", group=0, acts="int4"), made)
    entry = apply(StaticInputs(), made, [{"x": ROWS}])
    assert "fewer than 8 bits" in entry.skips[0].text
    bad = ROWS.copy()
    bad[0, 0] = np.nan
    made = model()
    apply(Quantize(weights="int8"), made)
    entry = apply(StaticInputs(), made, [{"x": bad}])
    assert "not finite" in entry.skips[0].text
    assert entry.status == "unchanged"


def test_bad_options() -> None:
    with pytest.raises(RecipeError, match="percentile"):
        StaticInputs(percentile=20)
    made = model()
    apply(Quantize(weights="int8"), made)
    with pytest.raises(CalibrationError, match="none"):
        apply(StaticInputs(), made)
