"""The presets that rotate do so where the whole model loses less by it, and nowhere else.

Losses are told from chance row by row.
"""

import numpy as np
import pytest
from support.graphs import parse, run

from bitfold.passes.advise.row_losses import clearly_less, row_losses
from bitfold.passes.core.compare import compare_outputs
from bitfold.passes.core.context import Context
from bitfold.passes.core.pipeline import Pipeline
from bitfold.passes.presets import PRESETS, ROTATED

FEEDS = {"x": np.random.default_rng(0).standard_normal((2, 60, 24)).astype(np.float32)}


def stream(on_grid, outlier=1.0):
    """A residual stream of 64 channels with one norm and one layer.

    Args:
        on_grid: whether weights are whole numbers that 4 bits hold, as those of a low-bit file.
        outlier: how many times larger than the others one channel is.
    """
    rng = np.random.default_rng(1)

    def weight(rows, columns):
        found = rng.standard_normal((rows, columns)) / 8
        if on_grid:
            found = rng.integers(-7, 8, (rows, columns)) / 32
            found[::4], found[1::4] = -7 / 32, 7 / 32
        return found.astype(np.float32)

    spread = np.ones(64, np.float32)
    spread[7] = outlier
    return parse(
        """g (float[b, s, 24] x) => (float[b, s, 40] y) {
            e = MatMul(x, table)
            n = RMSNormalization<axis = -1>(e, gain)
            u = MatMul(n, up)
            t = Tanh(u)
            d = MatMul(t, down)
            h = Add(e, d)
            o = RMSNormalization<axis = -1>(h, gain)
            y = MatMul(o, head)
        }""",
        table=weight(24, 64) * spread,
        gain=np.ones(64, np.float32),
        up=weight(64, 96),
        down=weight(96, 64),
        head=weight(64, 40),
    )


def loss(model, recipe):
    """What the model loses, and what became of ``advise``."""
    before = run(model, FEEDS)
    with Context(samples=[FEEDS]) as context:
        made, report = Pipeline(recipe.removesuffix(", lower"), context, verify="off").run(model)
    statuses = {entry.name: entry.status for entry in report.passes}
    return compare_outputs([(before, run(made, FEEDS))]).distance, statuses.get("advise")


@pytest.mark.parametrize("name", ["w8a8", "w4a8", "w4a4"])
def test_what_rotations_would_harm_is_not_rotated(name):
    """Weights that lie on the grid leave it when they are turned."""
    model = stream(on_grid=True)
    quantize = PRESETS[name].split(", ")[-2]
    plain, _ = loss(model, f"canonicalize, {quantize}")
    turned, _ = loss(model, f"{ROTATED}, {quantize}")
    found, _ = loss(model, PRESETS[f"{name}-rot"])
    assert found <= plain * 1.0001
    if name == "w4a8":
        assert turned > 2 * plain


@pytest.mark.parametrize("name", ["w8a8", "w4a4"])
def test_what_has_outliers_is_rotated(name):
    model = stream(on_grid=False, outlier=16)
    plain, _ = loss(model, f"canonicalize, {PRESETS[name].split(', ')[-2]}")
    found, advised = loss(model, PRESETS[f"{name}-rot"])
    assert advised == "applied"
    assert found < 0.85 * plain


def test_losses_of_rows():
    rng = np.random.default_rng(2)
    a = rng.standard_normal((2, 5, 8)).astype(np.float32)
    b = a + rng.standard_normal(a.shape).astype(np.float32) / 10
    b[1, 2] = a[1, 2]
    states = row_losses({"state": a, "count": np.array(3)}, {"state": b, "count": np.array(4)})
    assert states.shape == (10,)
    assert states[7] == pytest.approx(0, abs=1e-12)
    whole = compare_outputs([({"logits": a}, {"logits": b})])
    logits = row_losses({"logits": a, "state": a}, {"logits": b, "state": -b})
    assert logits.mean() == pytest.approx(whole.kl)
    cosine = (a[0, 0] @ b[0, 0]) / np.linalg.norm(a[0, 0]) / np.linalg.norm(b[0, 0])
    assert states[0] == pytest.approx(1 - cosine, abs=1e-6)
    masked = np.where(np.arange(5)[:, None] < 1, np.nan, a)
    assert row_losses({"logits": masked}, {"logits": b})[[0, 5]].tolist() == [0, 0]
    assert not row_losses({"count": np.array(3)}, {"count": np.array(3)}).size


def test_gains_are_told_from_chance():
    before = np.random.default_rng(3).uniform(1, 2, 40)
    assert clearly_less(before * 0.9, before, 0.05)
    assert not clearly_less(before * 0.97, before, 0.05)
    assert not clearly_less(before, before, 0.0)
    lucky = before.copy()
    lucky[0] -= 30  # one row of many gains
    assert lucky.mean() < 0.6 * before.mean()
    assert not clearly_less(lucky, before, 0.05)
    assert clearly_less(np.ones(1), np.full(1, 2.0), 0.05)
    assert not clearly_less(np.empty(0), np.empty(0), 0.05)
