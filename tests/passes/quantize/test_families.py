"""Formats whose levels are found for each weight: the member that a weight was made with."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support.graphs import apply, parse

from bitfold.passes.quantize.families import with_member
from bitfold.passes.quantize.learned_levels import lloyd
from bitfold.passes.quantize.methods import quantized_by
from bitfold.passes.quantize.quantize import Quantize
from bitfold.passes.quantize.rounding import QuantizedWeight
from bitfold.runtime.formats.power_exponent import power_exponent
from bitfold.runtime.formats.scheme import WeightScheme

RNG = np.random.default_rng(5)


def made_with(bits: int, p: float, shape: tuple[int, int] = (64, 128)) -> np.ndarray:
    """A weight of a power-exponent code's levels, all of which each group of 32 has."""
    levels = np.array(power_exponent(bits, p).levels, np.float32)
    weight = RNG.choice(levels, shape)
    weight[:, ::32] = levels[0]
    return weight * np.float32(2**-9)


@pytest.mark.parametrize(("bits", "p"), [(3, 1.375), (4, 1.75), (4, 1), (5, 2)])
@pytest.mark.parametrize("method", ["rtn", "gptq"])
def test_the_exponent_is_found(bits: int, p: float, method: str) -> None:
    weight = made_with(bits, p)
    found = quantized_by(method, weight, np.eye(128), WeightScheme(f"power{bits}", 32), "mse")
    assert found.scheme.number == power_exponent(bits, p)
    np.testing.assert_allclose(found.dequantize(), weight, atol=1e-5)
    assert str(found.scheme).startswith(f"power{bits}^{p} g32")


def test_columns_that_see_more_count_more() -> None:
    """Half of the columns are made with one exponent, half with another."""
    scheme, low, high = WeightScheme("power4", 32), made_with(4, 1.25), made_with(4, 2)
    weight, energy = np.concatenate([low, high], 1), np.ones(256)
    energy[:128] = 1e4
    first = with_member(scheme, weight, energy, "mse").number
    second = with_member(scheme, weight, energy[::-1], "mse").number
    assert (first, second) == (power_exponent(4, 1.25), power_exponent(4, 2))


def test_what_is_found_already_stays() -> None:
    weight = made_with(4, 2)
    plain = WeightScheme("int4", 32)
    assert with_member(plain, weight, None, "mse") is plain
    fixed = replace(WeightScheme("power4", 32), member=power_exponent(4, 1))
    assert with_member(fixed, weight, None, "mse") is fixed


def test_each_weight_of_a_model_has_its_own() -> None:
    model = parse(
        "g (float[n, 64] x) => (float[n, 64] y) { a = MatMul(x, w1) y = MatMul(a, w2) }",
        w1=made_with(4, 1.125, (64, 64)).T,
        w2=made_with(4, 1.875, (64, 64)).T,
    )
    entry = apply(Quantize(weights="power4"), model)
    assert [site.scheme.split()[0] for site in entry.sites] == ["power4^1.125", "power4^1.875"]
    tables = [
        value.const_value.numpy().tolist()
        for name, value in model.graph.initializers.items()
        if name.endswith(".table")
    ]
    assert tables == [list(power_exponent(4, p).levels) for p in (1.125, 1.875)]
    assert min(site.sqnr_db for site in entry.sites) > 60


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_levels_are_learned(bits: int) -> None:
    """A weight of few values that no other format has comes back, whatever its groups' scales."""
    levels = {
        2: (-90, -11, 40, 97),
        3: (-120, -80, -30, -25, -1, 33, 50, 90),
        4: tuple(np.sort(RNG.permutation(np.arange(-127, 128, 6))[:16])),
    }[bits]
    scales = np.exp(RNG.uniform(-4, 0, (128, 4))).astype(np.float32).repeat(32, 1)
    values = RNG.choice(np.array(levels, np.float32), scales.shape)
    values[:, ::32], values[:, 1::32] = levels[0], levels[-1]
    weight = values * scales
    found = quantized_by("rtn", weight, None, WeightScheme(f"learned{bits}", 32), "mse")
    plain = quantized_by("rtn", weight, None, WeightScheme(f"gauss{bits}", 32), "mse")
    assert lost(weight, found) < 1e-3
    assert lost(weight, found) < 0.25 * lost(weight, plain)  # k-means may miss a few of 16
    assert found.scheme.number.integral


def lost(weight: np.ndarray, found: QuantizedWeight) -> float:
    return float(np.square(found.dequantize() - weight).sum() / np.square(weight).sum())


def test_k_means() -> None:
    values = np.array([0.0, 0.2, 1.0, 3.0, 3.2])
    levels = lloyd(values, np.array([1.0, 3, 1, 1, 1]), np.array([-9.0, 0.3, 0.9, 4]))
    np.testing.assert_allclose(levels, [-9, 0.15, 1, 3.1])


@pytest.mark.parametrize(("name", "method"), [("learned3", "rtn"), ("learned2", "gptq")])
def test_learned_levels_lose_less(name: str, method: str) -> None:
    """Than those of any fixed format of as many bits, on skewed weights and uneven inputs."""
    weight = (RNG.gamma(4.0, 1.0, (96, 128)) - 3).astype(np.float32)
    inputs = RNG.standard_normal((512, 128)) * np.exp(RNG.standard_normal(128))
    gram = inputs.T @ inputs / 512

    def error(form: str) -> float:
        found = quantized_by(method, weight, gram, WeightScheme(form, 32), "mse")
        lost = (found.dequantize() - weight).astype(np.float64)
        return float(np.einsum("nk,kj,nj->", lost, gram, lost))

    learned = error(name)
    for fixed in ("int", "gauss", "odd"):
        assert learned < 0.9 * error(f"{fixed}{name[-1]}")
