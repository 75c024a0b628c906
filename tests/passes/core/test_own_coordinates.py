"""Rotations of caches travel with a model, through files too, and add up."""

import numpy as np
import onnx_ir as ir
from support.graphs import parse

from bitfold.passes.core.own_coordinates import (
    add_rotation,
    carry_rotations,
    rotation_of,
    to_original,
    to_own,
)


def turn(heads, width, seed):
    rng = np.random.default_rng(seed)
    return np.linalg.qr(rng.standard_normal((heads, width, width)))[0].astype(np.float32)


def model():
    return parse("g (float[1, 2, p, 4] a, float[1] b) => (float[1, 2, p, 4] c) { c = Neg(a) }")


def test_feeds_and_outputs_are_turned_there_and_back(tmp_path):
    turned, first, second = model(), turn(2, 4, 0), turn(2, 4, 1)
    for value in (turned.graph.inputs[0], turned.graph.outputs[0]):
        add_rotation(value, first)
        add_rotation(value, second)
    ir.save(turned, tmp_path / "m.onnx")
    graph = ir.load(tmp_path / "m.onnx").graph
    np.testing.assert_allclose(rotation_of(graph.inputs[0]), first @ second, atol=1e-6)
    assert rotation_of(graph.inputs[1]) is None
    a = np.random.default_rng(2).standard_normal((1, 2, 3, 4)).astype(np.float32)
    feeds = to_own(graph.inputs, {"a": a, "b": a[:, 0, 0, 0]})
    np.testing.assert_allclose(feeds["a"][0, 1], a[0, 1] @ first[1] @ second[1], atol=1e-5)
    assert feeds["b"] is not a
    np.testing.assert_array_equal(feeds["b"], a[:, 0, 0, 0])
    back = to_original(graph.outputs, {"c": feeds["a"]})
    np.testing.assert_allclose(back["c"], a, atol=1e-5)


def test_nothing_is_copied_where_nothing_is_turned():
    graph, a = model().graph, np.zeros((1, 2, 3, 4), np.float32)
    assert to_own(graph.inputs, {"a": a})["a"] is a
    assert to_original(graph.outputs, {"c": a})["c"] is a


def test_values_put_in_place_of_others_take_over_their_rotations():
    before, after, other = model(), model(), turn(2, 4, 0)
    add_rotation(before.graph.outputs[0], other)
    add_rotation(before.graph.inputs[0], other)
    add_rotation(after.graph.inputs[0], other @ other)
    carry_rotations(before.graph, after.graph)
    np.testing.assert_allclose(rotation_of(after.graph.outputs[0]), other)
    np.testing.assert_allclose(rotation_of(after.graph.inputs[0]), other @ other, atol=1e-6)
