"""Weights that training left on a grid go through ``quantize`` and ``lower`` with no error."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from support.graphs import apply, census, parse, run

from bitfold.passes.analysis.sites import find_sites
from bitfold.passes.core.report import PassEntry
from bitfold.passes.lower.lower import Lower
from bitfold.passes.quantize.quantize import Quantize
from bitfold.runtime.execution import open_session

RNG = np.random.default_rng(0)
TARGETS = ("native", "ort", "portable")

K = 320
"""Longer than any block of ORT's operators."""


def f(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def on_grid(levels: tuple[int, ...], *shape: int) -> np.ndarray:
    """Levels times a float32 for each index of the first axis."""
    units = RNG.uniform(0.05, 0.2, (shape[0], *[1] * (len(shape) - 1))).astype(np.float32)
    return RNG.choice(np.float32(levels), shape) * units


TERNARY = on_grid((-1, 0, 1), 48, K)
EIGHT_BITS = on_grid(tuple(range(-128, 128)), 48, K)


def matmul(weight: np.ndarray) -> ir.Model:
    return parse(
        "g (float[n, 320] x) => (float[n, 48] y) { t = Transpose <perm=[1, 0]> (w) "
        "y = MatMul(x, t) }",
        w=weight,
    )


def quantized(model: ir.Model, **options) -> PassEntry:
    return apply(Quantize(**options), model)


def weights_of(model: ir.Model) -> np.ndarray:
    """What the one site's weight is when the graph runs: [N, K]."""
    (site,) = find_sites(model)
    name = str(site.source.name)
    model.graph.outputs.append(site.source)
    found = open_session(model, outputs=[name]).run({"x": np.zeros((1, K), np.float32)})
    model.graph.outputs.pop()
    return found[name]


@pytest.mark.parametrize("weights", ["int4", "int8", "ternary"])
def test_whatever_the_recipe_asks_for(weights):
    model = matmul(TERNARY)
    entry = quantized(model, weights=weights)
    assert "ternary per channel symmetric" in entry.changes[0].text
    assert "already on this grid, kept exactly" in entry.changes[0].text
    assert entry.sites[0].sqnr_db == np.inf
    assert np.array_equal(weights_of(model), TERNARY)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("levels", [(-1, 1), (-1, 0, 1), tuple(range(-8, 8)), (0, 1, 2, 3)])
def test_every_target_runs_it(target, levels):
    """Float inputs: only sums differ.  Rounded ones, in each target's groups: nothing refuses."""
    weight, x = on_grid(levels, 48, K), f(5, K)
    for acts, limit in (("none", 1e-6), ("int8", 0.02)):
        model = matmul(weight)
        quantized(model, acts=acts, target=target)
        apply(Lower(target=target), model)
        assert "MatMul" not in census(model) or target == "portable"
        exact = x @ weight.T
        assert np.abs(run(model, {"x": x})["y"] - exact).max() < limit * np.abs(exact).max()


def test_a_grid_of_more_bits_is_kept_when_asked():
    entry = quantized(matmul(EIGHT_BITS))
    assert "int4 g32 asymmetric" in entry.changes[0].text
    model = matmul(EIGHT_BITS)
    assert "int8 per channel" in quantized(model, lossless="always").changes[0].text
    assert np.array_equal(weights_of(model), EIGHT_BITS)


def test_a_grid_of_more_scales_says_so():
    weight = np.concatenate([on_grid((-1, 0, 1), 48, 16) for _ in range(K // 16)], 1)
    text = quantized(matmul(weight), weights="ternary").changes[0].text
    assert text.startswith("ternary g32")
    assert text.endswith("looks like a grid of ternary g16 symmetric, which takes more bits: "
                         "lossless=always keeps it")  # fmt: skip


def test_off_and_only():
    model = matmul(TERNARY)
    assert "int4 g32" in quantized(model, lossless="off").changes[0].text
    assert not np.array_equal(weights_of(model), TERNARY)
    model = matmul(f(48, K))
    entry = quantized(model, lossless="only")
    assert not entry.changes
    assert "no grid" in entry.skips[0].text
    assert census(model)["MatMul"] == 1
    assert not model.functions


def test_inputs_of_fewer_bits_keep_their_groups():
    model = matmul(TERNARY)
    quantized(model, acts="int4")
    groups = [n.attributes.get_int("group_size") for n in model.graph if n.domain == "bitfold"]
    assert groups == [32, 32]
    assert np.array_equal(weights_of(model), TERNARY)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("groups", [1, 2, 32])
@pytest.mark.parametrize("levels", [(-1, 1), (-1, 0, 1), (0, 1, 2, 3)])
def test_convolutions(target, groups, levels):
    """One unit for each output; with 32 groups they are depthwise."""
    weight, x = on_grid(levels, 64, 32 // groups, 3, 3), f(2, 32, 7, 6)
    text = (
        "g (float[n, 32, h, w] x) => (float[n, 64, p, q] y) "
        f"{{ y = Conv <group = {groups}, pads = [1, 1, 1, 1]> (x, w) }}"
    )
    exact = run(parse(text, w=weight), {"x": x})["y"]
    model = parse(text, w=weight)
    entry = quantized(model, acts="none", target=target)
    assert "kept exactly" in entry.changes[0].text
    apply(Lower(target=target), model)
    assert target != "native" or census(model) == {"LowBitConv": 1}
    assert np.abs(run(model, {"x": x})["y"] - exact).max() < 1e-6 * np.abs(exact).max()
