"""Kinds of spaces, told from the structure of small graphs and of the tiny models."""

from collections import Counter

import numpy as np
import pytest
from support.graphs import parse

from bitfold.models import tiny
from bitfold.passes.analysis.spaces import kinds
from bitfold.passes.analysis.spaces.survey import survey_spaces
from bitfold.passes.analysis.spaces.symmetry import SCALE
from bitfold.passes.core.context import Context
from bitfold.passes.core.pipeline import Pipeline

RNG = np.random.default_rng(0)


def f(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def prepared(name):
    with Context() as context:
        recipe = "canonicalize, fold-batch-norm"
        model, _ = Pipeline(recipe, context, verify="off").run(tiny.TINY[name](0))
    return model


EXPECTED = {
    "decoder": {
        kinds.STREAM: 1,
        kinds.QUERY_KEY: 2,
        kinds.VALUES: 2,
        kinds.GATED: 2,
        kinds.OUTPUT: 1,
    },
    "bert": {kinds.STREAM: 1, kinds.QUERY_KEY: 2, kinds.VALUES: 2, kinds.HIDDEN: 2},
}


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_tiny_models(name):
    found = Counter(each.kind for each in survey_spaces(prepared(name)))
    assert {kind: found[kind] for kind in EXPECTED[name]} == EXPECTED[name]
    assert set(found) <= set(kinds.KINDS)


def test_a_fused_projection_holds_a_pair_and_values():
    model = parse(
        """g (float[b, s, 8] x) => (float[b, s, 8] y) {
            qkv = MatMul(x, w)
            q, k, v = Split<axis = -1, num_outputs = 3>(qkv)
            o = Attention<q_num_heads = 2, kv_num_heads = 2>(q, k, v)
            y = MatMul(o, wo)
        }""",
        w=f(8, 48),
        wo=f(16, 8),
    )
    assert [each.kind for each in survey_spaces(model)] == [
        kinds.QUERY_KEY,
        kinds.VALUES,
        kinds.OUTPUT,
    ]


def test_convolutions():
    model = parse(
        """g (float[1, 3, 6, 6] x) => (float[1, 4, 4, 4] y) {
            a = Conv<kernel_shape = [1, 1]>(x, v)
            r = Relu(a)
            d = Conv<kernel_shape = [3, 3], group = 6>(r, k)
            p = Conv<kernel_shape = [1, 1]>(d, u)
            y = Conv<kernel_shape = [1, 1]>(p, t)
        }""",
        v=f(6, 3, 1, 1),
        k=f(6, 1, 3, 3),
        u=f(5, 6, 1, 1),
        t=f(4, 5, 1, 1),
    )
    assert [each.kind for each in survey_spaces(model)] == [
        kinds.DEPTHWISE,
        kinds.CHAIN,
        kinds.OUTPUT,
    ]


def test_two_layers_with_nothing_between_and_with_a_function():
    model = parse(
        """g (float[b, 8] x) => (float[b, 4] y) {
            a = MatMul(x, w)
            c = MatMul(a, v)
            r = Relu(c)
            y = MatMul(r, u)
        }""",
        w=f(8, 6),
        v=f(6, 5),
        u=f(5, 4),
    )
    found = [each.kind for each in survey_spaces(model)]
    assert found == [kinds.BETWEEN, kinds.HIDDEN, kinds.OUTPUT]


def test_parts_belong_to_their_space():
    surveyed = survey_spaces(prepared("decoder"))
    stream = next(each for each in surveyed if each.kind == kinds.STREAM)
    behind_norms = [part for part in stream.parts["scale"] if part.allows(SCALE)]
    assert len(behind_norms) == 5  # two norms a layer, and the last one
    assert sum(len(part.readers) for part in behind_norms) == len(stream.space.readers)
    for each in surveyed:
        whole = {id(held.port) for held in each.space.held}
        for parts in each.parts.values():
            assert {id(held.port) for part in parts for held in part.held} == whole
