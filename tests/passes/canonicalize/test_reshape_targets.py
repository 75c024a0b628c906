"""Targets of Reshape among no elements: what canonicalize makes of them computes the same."""

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from support.graphs import apply, census, parse

from bitfold.passes.canonicalize.canonicalize import Canonicalize

# x [b, s, 12] as PyTorch's dynamo exporter views it: computed lengths, then known ones, and -1.
VIEW = """g (float[b, {s}, 12] x) => (float[p, q, r, t] y)
    <int64[1] three = {{3}}, int64[1] last = {{{last}}}> {{
    n = Neg(x)
    d0 = Shape<start = 0, end = 1>(n)
    d1 = Shape<start = 1, end = 2>(n)
    target = Concat<axis = 0>(d0, d1, three, last)
    y = Reshape<allowzero = {allow}>(n, target)
}}"""
FLAT = """g (float[b, s, 4] x) => (float[p, q] y) {{
    n = Neg(x)
    y = Flatten<axis = {axis}>(n)
}}"""


def shape_of(model, shape):
    """The shape that ONNX Runtime gives, its own rewriting of shapes aside."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    proto = ir.to_proto(model).SerializeToString()
    session = ort.InferenceSession(proto, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.ones(shape, np.float32)})[0].shape


@pytest.mark.parametrize("last", [-1, 4])
@pytest.mark.parametrize("shape", [(2, 3, 12), (0, 3, 12), (2, 0, 12), (0, 0, 12)])
def test_a_view_of_no_elements_has_the_same_shape(shape, last):
    model = parse(VIEW.format(s="s", last=last, allow=1))
    assert shape_of(model, shape) == (*shape[:2], 3, 4)
    apply(Canonicalize(), model)
    assert shape_of(model, shape) == (*shape[:2], 3, 4)
    assert census(model) == {"Neg": 1, "Reshape": 1}
    assert model.graph[1].inputs[1].const_value.numpy().tolist() == [0, 0, 3, 4]


@pytest.mark.parametrize("allow", [0, 1])
def test_what_is_left_among_no_elements_is_not_a_constant(allow):
    """A length of 0 that is known ahead, beside one that is not."""
    model = parse(VIEW.format(s=0, last=4, allow=allow))
    apply(Canonicalize(), model)
    for batch in (2, 0):
        assert shape_of(model, (batch, 0, 12)) == (batch, 0, 3, 4)


def test_a_target_that_is_only_taken_computed_stays_computed():
    model = parse(VIEW.format(s=0, last=-1, allow=1).replace("float[b,", "float[0,"))
    assert shape_of(model, (0, 0, 12)) == (0, 0, 3, 4)
    apply(Canonicalize(), model)
    assert shape_of(model, (0, 0, 12)) == (0, 0, 3, 4)


@pytest.mark.parametrize(
    ("axis", "sides"),
    [(1, lambda b, s: (b, 4 * s)), (2, lambda b, s: (b * s, 4)), (0, lambda b, s: (1, b * s * 4))],
)
def test_flatten_of_no_elements_has_the_same_shape(axis, sides):
    model = parse(FLAT.format(axis=axis))
    apply(Canonicalize(), model)
    for b, s in ((2, 3), (0, 3), (2, 0), (0, 0)):
        assert shape_of(model, (b, s, 4)) == sides(b, s)
    # Only where neither side is known it cannot be a Reshape.
    assert ("Flatten" in census(model)) == (axis == 1)


def test_flatten_of_known_features_is_a_reshape_of_any_batch():
    model = parse(FLAT.format(axis=-2).replace("[b, s, 4]", "[b, 3, 4]"))
    apply(Canonicalize(), model)
    assert census(model) == {"Neg": 1, "Reshape": 1}
    for batch in (2, 0):
        assert shape_of(model, (batch, 3, 4)) == (batch, 12)
