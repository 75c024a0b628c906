"""Gemm's constant factors and biases of other shapes become a plain linear layer."""

from __future__ import annotations

import numpy as np
import pytest
from support.graphs import apply, assert_same, parse, run

from bitfold.passes.analysis.sites import find_sites
from bitfold.passes.canonicalize.canonicalize import Canonicalize

RNG = np.random.default_rng(1)


def f(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("trans", [0, 1])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (6,), (1, 6), None])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.5, 1.0), (1.0, 2.0), (0.25, 0.0)])
def test_a_linear_layer_however_it_is_written(trans, shape, alpha, beta):
    bias = {} if shape is None else {"c": f(*shape)}
    text = f"""g (float[m, 8] x) => (float[m, 6] y) {{
        y = Gemm<alpha = {alpha}, beta = {beta}, transB = {trans}>(x, w{", c" * len(bias)})
    }}"""
    model = parse(text, w=f(*((6, 8) if trans else (8, 6))), **bias)
    feeds = {"x": f(3, 8)}
    before = run(model, feeds)
    apply(Canonicalize(), model)
    assert_same(before, run(model, feeds), 1e-6)
    (site,) = find_sites(model)
    assert site.kind in ("gemm", "matmul")


def test_factors_of_what_others_read_and_of_inputs_stay():
    model = parse(
        """g (float[m, 8] x, float[8, 6] v, float[m, 6] r) => (float[m, 6] y, float[m, 6] z) {
            a = Gemm<alpha = 0.5>(x, w)
            b = MatMul(x, w)
            y = Add(a, b)
            z = Gemm<alpha = 0.5, beta = 2.0>(x, v, r)
        }""",
        w=f(8, 6),
    )
    feeds = {"x": f(3, 8), "v": f(8, 6), "r": f(3, 6)}
    before = run(model, feeds)
    apply(Canonicalize(), model)
    assert_same(before, run(model, feeds), 1e-6)
    assert [node.attributes.get_float("alpha", 1.0) for node in model.graph].count(0.5) == 2


def test_a_column_is_no_bias():
    text = "g (float[3, 8] x) => (float[3, 6] y) { y = Gemm<beta = 2.0>(x, w, c) }"
    model = parse(text, w=f(8, 6), c=f(3, 1))
    feeds = {"x": f(3, 8)}
    before = run(model, feeds)
    apply(Canonicalize(), model)
    assert_same(before, run(model, feeds), 1e-6)
    assert not list(find_sites(model))
