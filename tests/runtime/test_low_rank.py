"""The low-rank branch of ``LowBitMatMul``: its body in stock ORT, and nodes that are refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from support.lowbit_nodes import Case, matmul_model, matmul_session, session

from bitfold.runtime.ops.lowbit_matmul import LowBitMatMul
from bitfold.runtime.ops.packed import PackedWeight
from bitfold.runtime.ops.prologue import Prologue

PLAIN = Case(40, 96, 4, 32, act_group=32, rank=8)


@pytest.mark.parametrize(
    "case",
    [
        replace(PLAIN, half=False, bias=True),
        replace(PLAIN, activation="swiglu", epsilon=1e-3),
        replace(PLAIN, activation="gelu", residual=True, acts="none"),
        replace(PLAIN, splits=(16, 24), rank=1),
    ],
    ids=str,
)
def test_body_agrees_with_the_oracle(case: Case) -> None:
    operator = LowBitMatMul(
        PackedWeight(
            case.n, case.k, case.bits, case.group_size, paired=case.activation == "swiglu"
        ),
        case.acts,
        case.act_group,
        case.bias,
        case.activation,
        case.residual,
        case.splits,
        Prologue(case.epsilon),
        low_rank=True,
    )
    inputs, function = case.weights(), operator.function()
    model = matmul_model(case.attributes(), inputs, residual=case.residual)
    model.graph.node[0].overload = function.overload
    model.functions.append(ir.serde.serialize_function(function))
    model.opset_import[0].version = 23
    run = ort.InferenceSession(model.SerializeToString())
    for m in (1, 5):
        feeds = case.feeds(m)
        expected = case.expected(feeds["X"], inputs, feeds.get("residual"))
        y = np.concatenate(run.run(None, feeds), axis=-1)
        # Behind a norm a row may round to another code.
        limit = 1e-5 if case.epsilon is None else 1e-2
        assert np.abs(y - expected).max() <= limit * np.abs(expected).max()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("low_rank_down", None, "expected both low_rank_down and low_rank_up or neither"),
        ("low_rank_up", None, "expected both low_rank_down and low_rank_up or neither"),
        (
            "low_rank_down",
            np.zeros((8, 95), np.float16),
            "low_rank_down: expected shape [R, 96], R from 1 to 512, found [8, 95]",
        ),
        ("low_rank_down", np.zeros((0, 96), np.float16), "R from 1 to 512, found [0, 96]"),
        ("low_rank_down", np.zeros((513, 96), np.float16), "R from 1 to 512, found [513, 96]"),
        ("low_rank_down", np.zeros(768, np.float16), "R from 1 to 512, found [768]"),
        ("low_rank_up", np.zeros((40, 7), np.float16), "expected shape [40, 8], found [40, 7]"),
        ("low_rank_up", np.zeros((8, 40), np.float16), "expected shape [40, 8], found [8, 40]"),
        ("low_rank_up", np.zeros((40, 8), np.float32), "low_rank_up: expected low_rank_down's ty"),
        ("low_rank_down", np.zeros((8, 96), np.int8), "low_rank_down: expected type float16 or f"),
    ],
)
def test_refused_factors(name: str, value: np.ndarray | None, message: str) -> None:
    """When the session opens, or, where they are fed, when it runs."""
    inputs = {key: array for key, array in PLAIN.weights().items() if key != name}
    if value is not None:
        inputs[name] = value
    with pytest.raises(Exception, match="LowBitMatMul") as caught:
        session(matmul_model(PLAIN.attributes(), inputs))
    assert message in str(caught.value)
    with pytest.raises(Exception, match="LowBitMatMul") as caught:
        session(matmul_model(PLAIN.attributes(), inputs, constant=False)).run(
            None, {"X": PLAIN.rows(1), **inputs}
        )
    assert message in str(caught.value)


def test_factors_that_are_fed() -> None:
    """They give the bits of constant ones."""
    inputs, x = PLAIN.weights(), PLAIN.rows(3)
    fed = session(matmul_model(PLAIN.attributes(), inputs, constant=False))
    y = fed.run(None, {"X": x, **inputs})[0]
    assert y.tobytes() == matmul_session(PLAIN).run(None, {"X": x})[0].tobytes()
