"""The order of weights, and which model their inputs are taken from."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from support.graphs import parse

from bitfold.passes.analysis.sites import find_sites
from bitfold.passes.quantize.in_order import InOrder
from bitfold.passes.quantize.jobs import Job


@pytest.mark.parametrize("sequential", [False, True])
def test_tables_come_first_and_are_seen_as_they_were_or_are(sequential: bool) -> None:
    rng = np.random.default_rng(0)
    table, weight = (rng.standard_normal(shape).astype(np.float32) for shape in ((9, 8), (8, 4)))
    model = parse(
        "g (int64[n] i) => (float[n, 4] y) { x = Gather(t, i) y = MatMul(x, w) }",
        t=table,
        w=weight,
    )
    jobs = [Job(site.source, [site]) for site in find_sites(model)][::-1]
    ids = np.array([3, 1, 4, 1, 5])
    order = InOrder(model, [{"i": ids}], sequential).batches(jobs)
    (first,) = next(order)
    assert first.source.name == "t"
    assert first.gram is None
    first.source.const_value = ir.tensor(table / 2, name="t")
    ((last,),) = order
    assert last.source is jobs[0].source
    rows = (table / 2 if sequential else table)[ids].astype(np.float64)
    assert last.gram is not None
    np.testing.assert_allclose(last.gram, rows.T @ rows / len(ids), rtol=1e-5, atol=1e-7)


def test_a_table_that_is_the_head_too_is_told_by_both() -> None:
    rng = np.random.default_rng(0)
    table = rng.standard_normal((9, 8)).astype(np.float32)
    model = parse(
        "g (int64[n] i) => (float[n, 9] y) "
        "{ x = Gather(t, i) h = Tanh(x) w = Transpose(t) y = MatMul(h, w) }",
        t=table,
    )
    sites = list(find_sites(model))
    assert {site.source.name for site in sites} == {"t"}
    ids = np.array([3, 1, 4, 1, 5])
    order = InOrder(model, [{"i": ids}], sequential=False)
    ((job,),) = order.batches([Job(sites[0].source, sites)])
    rows = np.tanh(table[ids].astype(np.float64))
    gram = rows.T @ rows / len(ids)
    assert job.gram is not None
    np.testing.assert_allclose(
        job.gram, gram + np.eye(8) * np.trace(gram) / 8, rtol=1e-5, atol=1e-7
    )
