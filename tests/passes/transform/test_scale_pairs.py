"""Queries and keys change inversely, pairs that positions turn alike, and low-bit keys err less."""

import numpy as np
import pytest
from support.graphs import census, parse
from support.scaling import apply_exactly, array, cached, f, input_named, outliers, past

from bitfold.models import tiny
from bitfold.passes.core.context import Context
from bitfold.passes.core.own_coordinates import rotation_of
from bitfold.passes.core.pipeline import Pipeline
from bitfold.passes.transform.scale_pairs import ScalePairs, Scores
from bitfold.runtime.errors import RecipeError


@pytest.mark.parametrize("rotary", [False, True])
def test_keys_become_even(rotary):
    model = cached(keys=30, rotary=rotary)
    nodes = census(model)
    entry = apply_exactly(ScalePairs(), model, [past(rotary)])
    assert census(model) == nodes
    (change,) = entry.changes
    assert change.text.startswith(f"{8 if rotary else 16} channels in 2 blocks by length^")
    reach = np.abs(array(model, "wk")).max(0)
    assert reach.max() / np.median(reach) < 10
    scales = rotation_of(input_named(model, "pk")).diagonal(axis1=1, axis2=2)
    assert scales[0, 1] < np.median(scales) / 3
    if rotary:
        np.testing.assert_array_equal(scales[:, :8], scales[:, 8:])
    assert rotation_of(input_named(model, "pv")) is None


def test_the_error_of_scores_is_told():
    """With keys of two channels, one of which swallows the other's levels."""
    query = np.array([[[1.0, 100.0]], [[2.0, -100.0]]], np.float32)
    key = np.array([[[700.0, 1.0]], [[-700.0, 4.0]]], np.float32)
    inside = np.zeros((1, 2), int)
    scores = Scores(query, key, inside, np.arange(2)[None], inside.astype(bool))
    lost = query[:, 0, 1:] * np.array([-1.0, -4.0])
    exact = query[:, 0] @ key[:, 0].T
    apart = [x - x.mean(1, keepdims=True) for x in (lost, exact)]
    expected = np.square(apart[0]).sum() / np.square(apart[1]).sum()
    assert scores.error(np.ones((1, 2)), 4) == pytest.approx(expected)
    even = np.array([[1 / 700, 1 / 4]])
    assert scores.error(even, 4) < expected / 10
    inverse = Scores(query, key, inside, np.arange(2)[None], ~inside.astype(bool))
    assert inverse.error(1 / even, 4) == pytest.approx(scores.error(even, 4))


def test_a_pair_is_as_long_as_its_parts_together():
    key = np.array([[[3.0, 1, 4, 2]], [[1.0, 0, 1, 5]]], np.float32)
    zeros = np.zeros((1, 4), int)
    scores = Scores(key, key, zeros, np.array([[0, 1, 0, 1]]), zeros.astype(bool))

    class Pairs:
        blocks, size = 1, 2

    np.testing.assert_allclose(scores.reach(Pairs), [[5, 5]])


def test_products_of_two_matmuls():
    model = parse(
        """g (float[b, s, 24] x) => (float[b, 2, s, s] y) {
            q = MatMul(x, wq)
            k = MatMul(x, wk)
            qr = Reshape(q, heads)
            qt = Transpose<perm = [0, 2, 1, 3]>(qr)
            kr = Reshape(k, heads)
            kt = Transpose<perm = [0, 2, 3, 1]>(kr)
            y = MatMul(qt, kt)
        }""",
        wq=f(24, 32),
        wk=f(24, 32) * outliers(32, (1, 20), 30),
        heads=np.array([0, 0, 2, 16]),
    )
    entry = apply_exactly(ScalePairs(), model, [{"x": f(2, 30, 24)}])
    assert "16 channels in 2 blocks" in entry.changes[0].text


def test_where_loud_keys_meet_loud_queries_nothing_is_gained():
    model = cached(keys=30, queries=30)
    entry = apply_exactly(ScalePairs(alpha=1.0), model, [past()])
    assert not entry.changes
    (skip,) = entry.skips
    assert skip.text == "its scores would gain nothing"
    assert skip.detail.count("dB") == 2


def test_caches_left_alone():
    entry = apply_exactly(ScalePairs(caches=False), cached(keys=30), [past()])
    assert [skip.text for skip in entry.skips] == ["pk holds it from run to run"]


def test_no_samples():
    entry = apply_exactly(ScalePairs(), cached(keys=30), [])
    assert "no sample inputs" in entry.notes[0]


def test_options():
    with pytest.raises(RecipeError, match="2, 3, 4 or 8 bits"):
        ScalePairs(bits=5)
    with pytest.raises(RecipeError, match="from 0 to 1"):
        ScalePairs(alpha=-1.0)


@pytest.mark.parametrize("name", ["bert", "decoder", "vit"])
def test_tiny_models(name):
    with Context(samples=[tiny.sample_feeds(name, 0)]) as context:
        recipe = "canonicalize, scale-pairs"
        _, report = Pipeline(recipe, context, verify="full").run(tiny.TINY[name](0))
    assert report.passes[-1].status == "applied"
