"""``LowBitMatMul``'s input scales: the function body in stock ORT, and nodes that are refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from support.lowbit_nodes import Case, matmul_model, matmul_session, session

from bitfold.runtime.ops.lowbit_matmul import LowBitMatMul
from bitfold.runtime.ops.packed import PackedWeight

PLAIN = Case(40, 96, 4, 32, act_group=32, n_group=16)


@pytest.mark.parametrize(
    "case",
    [
        replace(PLAIN, n_group=40, bias=True),
        replace(PLAIN, rank=5, residual=True),
        replace(PLAIN, acts="none", splits=(32, 8)),
        replace(PLAIN, static=True, act_group=0, n_group=32),
        replace(PLAIN, activation="swiglu", n_group=40),
    ],
    ids=str,
)
def test_body_agrees_with_the_oracle(case: Case) -> None:
    operator = LowBitMatMul(
        PackedWeight(
            case.n, case.k, case.bits, case.group_size, paired=case.activation == "swiglu"
        ),
        case.acts,
        case.act_group or case.k,
        case.bias,
        case.activation,
        case.residual,
        case.splits,
        act_scale=case.static,
        low_rank=case.rank > 0,
        n_group_size=case.n_group,
    )
    inputs, function = case.weights(), operator.function()
    assert operator.attributes()["n_group_size"] == case.attributes()["n_group_size"]
    model = matmul_model(case.attributes(), inputs, residual=case.residual)
    model.graph.node[0].overload = function.overload
    model.functions.append(ir.serde.serialize_function(function))
    model.opset_import[0].version = 23
    run = ort.InferenceSession(model.SerializeToString())
    for m in (1, 5):
        feeds = case.feeds(m)
        expected = case.expected(feeds["X"], inputs, feeds.get("residual"))
        y = np.concatenate(run.run(None, feeds), axis=-1)
        assert np.abs(y - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("case", "change", "message"),
    [
        (PLAIN, {"n_group_size": 0}, "'n_group_size': expected 1 to 40, found 0"),
        (PLAIN, {"n_group_size": 41}, "'n_group_size': expected 1 to 40, found 41"),
        (PLAIN, {"n_group_size": 24}, "'n_group_size': expected N = 40 or a multiple of 16, found"),
        (PLAIN, {"n_group_size": 32}, "input_scales: expected float32 of shape [2, 96], found [3"),
        (PLAIN, {"n_group_size": 16.0}, "'n_group_size': expected an int, found another type"),
        (replace(PLAIN, activation="swiglu"), {}, "'n_group_size': expected N = 40 with swiglu"),
        (replace(PLAIN, n_group=0), {"n_group_size": 16}, "expected beside input_scales alone"),
    ],
    ids=str,
)
def test_refused_attributes(case: Case, change: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match="LowBitMatMul: ") as caught:
        session(matmul_model({**case.attributes(), **change}, case.weights()))
    assert message in str(caught.value)


def test_scales_without_a_size() -> None:
    attributes = replace(PLAIN, n_group=0).attributes()
    with pytest.raises(Exception, match="attribute 'n_group_size': expected beside input_scales"):
        session(matmul_model(attributes, PLAIN.weights()))


@pytest.mark.parametrize("shape", [(3, 95), (2, 96), (96, 3), (288,), (0,)])
def test_refused_scales(shape: tuple[int, ...]) -> None:
    """When the session opens, or, where they are fed, when it runs."""
    inputs = {**PLAIN.weights(), "input_scales": np.ones(shape, np.float32)}
    message = r"input_scales: expected float32 of shape \[3, 96\]"
    with pytest.raises(Exception, match=message):
        session(matmul_model(PLAIN.attributes(), inputs))
    fed = session(matmul_model(PLAIN.attributes(), inputs, constant=False))
    with pytest.raises(Exception, match=message):
        fed.run(None, {"X": PLAIN.rows(1), **inputs})


def test_scales_that_are_fed() -> None:
    """They give the bits of constant ones."""
    inputs, x = PLAIN.weights(), PLAIN.rows(3)
    fed = session(matmul_model(PLAIN.attributes(), inputs, constant=False))
    y = fed.run(None, {"X": x, **inputs})[0]
    assert y.tobytes() == matmul_session(PLAIN).run(None, {"X": x})[0].tobytes()
