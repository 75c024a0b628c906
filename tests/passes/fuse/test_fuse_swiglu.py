"""silu(gate) * up of two halves is one operator; what only looks like it is told, with why."""

import numpy as np
import pytest
from support.graphs import apply, assert_same, census, parse, run

from bitfold.passes.fuse.fuse_swiglu import FuseSwiGLU

HALVES = "g, u = Split<axis = -1, num_outputs = 2>(x)"


def gated(split=HALVES, silu="t = Mul(g, s)", y="y = Mul(t, u)", extra="", outputs="", **constants):
    return parse(
        f"""m (float[b, 8] x) => (float[b, n] y{outputs}) {{
            {split}
            s = Sigmoid(g)
            {silu}
            {y}
            {extra}
        }}""",
        **constants,
    )


def feeds():
    return {"x": np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)}


@pytest.mark.parametrize("silu", ["t = Mul(g, s)", "t = Mul(s, g)"])
@pytest.mark.parametrize("y", ["y = Mul(t, u)", "y = Mul(u, t)"])
@pytest.mark.parametrize("sizes", [False, True])
def test_every_order_of_the_factors_is_fused(silu, y, sizes):
    if sizes:
        model = gated("g, u = Split<axis = -1>(x, n)", silu, y, n=np.array([4, 4], np.int64))
    else:
        model = gated(silu=silu, y=y)
    before = run(model, feeds())
    entry = apply(FuseSwiGLU(), model)
    assert census(model) == {"SwiGLU": 1}
    assert (entry.status, len(entry.changes), entry.skips) == ("applied", 1, [])
    assert_same(before, run(model, feeds()), 1e-6)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (
            lambda: gated("u, g = Split<axis = -1, num_outputs = 2>(x)"),
            "the gate is the second half of the Split, SwiGLU takes the first",
        ),
        (
            lambda: gated("g, u = Split<axis = -1>(x, n)", n=np.array([7, 1], np.int64)),
            "the Split is not into two halves",
        ),
        (
            lambda: gated("g, u, r = Split<axis = -1>(x, n)", n=np.array([3, 3, 2], np.int64)),
            "the Split is not into two halves",
        ),
        (
            lambda: gated("g, u, r, q = Split<axis = -1, num_outputs = 4>(x)"),
            "the Split is not into two halves",
        ),
        (
            lambda: gated("g, u = Split<axis = 0, num_outputs = 2>(x)"),
            "the Split is not along the last axis",
        ),
        (
            lambda: gated(HALVES + "\n v = Neg(u)", y="y = Mul(t, v)"),
            "the gate and what it scales are not from one Split",
        ),
        (lambda: gated(y="y = Mul(t, g)"), "the gate scales itself"),
        (
            lambda: gated(extra="z = Neg(u)", outputs=", float[b, 4] z"),
            "u is used elsewhere too",
        ),
        (lambda: gated(extra="z = Neg(g)", outputs=", float[b, 4] z"), "g is used elsewhere too"),
        (lambda: gated(outputs=", float[b, 4] t"), "t is used elsewhere too"),
        (lambda: gated(outputs=", float[b, 4] s"), "s is used elsewhere too"),
    ],
)
def test_what_only_looks_like_it_is_told(model, reason):
    model = model()
    before, nodes = run(model, feeds()), census(model)
    entry = apply(FuseSwiGLU(), model)
    assert census(model) == nodes
    assert [skip.text for skip in entry.skips] == [reason]
    assert (entry.status, entry.changes) == ("unchanged", [])
    assert_same(before, run(model, feeds()), 0)


def test_a_gate_without_a_split_is_not_its_business():
    model = gated("g = Neg(x)\n u = Abs(x)")
    assert apply(FuseSwiGLU(), model).skips == []
