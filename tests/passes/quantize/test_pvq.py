"""Pyramid vector quantization: points on the pyramid, against brute force and known answers."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from bitfold.passes.quantize.methods import quantized_by
from bitfold.passes.quantize.pvq import best_pulses, project, pvq, pvq_informed
from bitfold.passes.quantize.rounding import round_to_nearest
from bitfold.runtime.errors import RecipeError
from bitfold.runtime.formats.scheme import WeightScheme

RNG = np.random.default_rng(0)


def weights(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def every_point(d: int, pulses: int, most: int) -> np.ndarray:
    reach = range(-min(pulses, most), min(pulses, most) + 1)
    points = np.array(list(product(reach, repeat=d)))
    return points[np.abs(points).sum(1) == pulses]


def test_the_pyramid_has_as_many_points_as_fischer_counts() -> None:
    """Which the projection of many directions all finds."""
    for d, pulses, count in ((2, 2, 8), (3, 2, 18), (3, 3, 38), (4, 2, 32)):
        assert len(every_point(d, pulses, pulses)) == count
        found = project(weights(20000, d), pulses, pulses)
        assert len(np.unique(found, axis=0)) == count


@pytest.mark.parametrize(("d", "pulses", "most"), [(3, 5, 7), (4, 4, 3), (5, 6, 3), (4, 7, 2)])
def test_greedy_against_brute_force(d: int, pulses: int, most: int) -> None:
    values, every = weights(300, d), every_point(d, pulses, most)
    found = project(values, pulses, most).astype(int)
    assert np.abs(found).max() <= most
    assert (np.abs(found).sum(1) == pulses).all()
    assert (found * values >= 0).all()

    def cosine(points: np.ndarray) -> np.ndarray:
        norm = np.linalg.norm(points, axis=-1) * np.linalg.norm(values, axis=1)[:, None]
        return (points * values[:, None]).sum(-1) / norm

    greedy, best = cosine(found[:, None])[:, 0], cosine(every[None]).max(1)
    assert (greedy <= best + 1e-9).all()
    assert np.mean(greedy > best - 1e-9) > 0.9
    assert (greedy > 0.97 * best).all()


def test_points_come_back() -> None:
    points = project(weights(40, 64).reshape(-1, 32), 60, 7).reshape(40, 64)
    weight = points.astype(np.float32) * np.float32(2**-5)
    assert best_pulses(weight.reshape(-1, 32), WeightScheme("int4", 32)) in range(40, 90)
    found = project(weight.reshape(-1, 32), 60, 7)
    np.testing.assert_array_equal(found.reshape(40, 64), points)


@pytest.mark.parametrize("kind", ["f16", "e8m0", "e4m3"])
@pytest.mark.parametrize("name", ["int2", "int4", "int8"])
def test_every_group_has_the_same_sum(name: str, kind: str) -> None:
    weight = weights(24, 96)
    weight[3, 32:64] = 0
    found = pvq(weight, WeightScheme(name, 32, False, kind))
    levels = found.scheme.number.decode(found.codes).astype(int)
    sums = np.abs(levels).reshape(24, 3, 32).sum(2)
    assert sums[3, 1] == 0
    sums[3, 1] = sums[0, 0]
    assert len(np.unique(sums)) == 1
    share = np.square(found.dequantize() - weight).sum() / np.square(weight).sum()
    # Powers of two are scales that no point was chosen for.
    assert share < {"int2": 0.4, "int4": 0.03, "int8": 1e-3}[name] + 0.1 * (kind == "e8m0")


def test_the_feedback_pays_and_the_pyramid_stays() -> None:
    mixed = RNG.standard_normal((1024, 40)) @ RNG.standard_normal((40, 112))
    inputs = mixed + 0.3 * RNG.standard_normal(mixed.shape)
    gram, weight = inputs.T @ inputs / len(inputs), weights(32, 112)
    scheme = WeightScheme("int3", 32)

    def lost(rounded: np.ndarray) -> float:
        error = (rounded - weight).astype(np.float64)
        return float(np.einsum("nk,kj,nj->", error, gram, error))

    found = pvq_informed(weight, gram, scheme)
    assert lost(found.dequantize()) < 0.6 * lost(pvq(weight, scheme).dequantize())
    sums = np.abs(found.scheme.number.decode(found.codes).astype(int))
    assert len(np.unique(sums[:, :96].reshape(-1, 32).sum(1))) == 1
    assert len(np.unique(sums[:, 96:].sum(1))) == 1


def test_no_less_error_than_rounding_to_nearest() -> None:
    """As the docstring says: on plain integers the pyramid is a restriction."""
    weight = weights(64, 128)
    for name in ("int3", "int4"):
        scheme = WeightScheme(name, 32)
        lost = [
            float(np.square(found.dequantize() - weight).sum())
            for found in (pvq(weight, scheme), round_to_nearest(weight, scheme))
        ]
        assert lost[1] < lost[0] < 3 * lost[1]


def test_other_formats_are_refused() -> None:
    with pytest.raises(RecipeError, match="method=pvq makes integers"):
        quantized_by("pvq", weights(16, 32), None, WeightScheme("nf4", 32), "mse")
