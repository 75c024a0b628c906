"""The order of weights, and which model their inputs are taken from."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from support.graphs import apply, parse

from bitfold.passes.analysis.sites import find_sites
from bitfold.passes.calibrate.token_weights import Tokens
from bitfold.passes.core.context import Feeds
from bitfold.passes.core.report import PassEntry
from bitfold.passes.quantize.in_order import InOrder
from bitfold.passes.quantize.jobs import Job
from bitfold.passes.quantize.quantize import Quantize
from bitfold.runtime.execution import open_session


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


@pytest.mark.parametrize("tokens", ["even", "first"])
def test_weights_that_meet_nothing_are_rounded_without_it(tokens: Tokens) -> None:
    """One site has no rows in either sample, another in one of them, as with cached states."""
    rng = np.random.default_rng(0)
    w, v = (rng.standard_normal((64, 64)).astype(np.float32) for _ in range(2))
    x = rng.standard_normal((1, 40, 64)).astype(np.float32)
    none = np.zeros((1, 0, 64), np.float32)

    def made(*samples: Feeds) -> tuple[ir.Model, PassEntry]:
        model = parse(
            "g (float[b, t, 64] x, float[b, s, 64] z) => (float[b, t, 64] y, float[b, s, 64] u) "
            "{ y = MatMul(x, w) u = MatMul(z, v) }",
            w=w,
            v=v,
        )
        item = Quantize(weights="int3", method="gptq", acts="none", tokens=tokens)
        return model, apply(item, model, samples)

    model, entry = made({"x": x, "z": none}, {"x": none, "z": none})
    said = [note for note in entry.notes if note.startswith("1 of 2 weights met nothing but zeros")]
    assert len(said) == 1
    feeds = {"x": x, "z": x}
    nearest = parse("g (float[b, s, 64] z) => (float[b, s, 64] u) { u = MatMul(z, v) }", v=v)
    apply(Quantize(weights="int3", acts="none"), nearest)
    found, known = open_session(model).run(feeds), open_session(nearest).run({"z": x})
    np.testing.assert_allclose(found["u"], known["u"], rtol=1e-5, atol=1e-5)
    seen, entry = made({"x": x, "z": none})
    assert any("met nothing" in note for note in entry.notes)
    np.testing.assert_allclose(open_session(seen).run(feeds)["y"], found["y"], rtol=1e-5, atol=1e-5)
