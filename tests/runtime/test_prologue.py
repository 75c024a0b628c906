"""``LowBitMatMul``'s prologue: its function body in stock ORT, and nodes that are refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from support.hadamard_nodes import base_of
from support.lowbit_nodes import Case, matmul_model, session

from bitfold.runtime.hadamard import hadamard_base
from bitfold.runtime.ops.lowbit_matmul import LowBitMatMul
from bitfold.runtime.ops.packed import PackedWeight
from bitfold.runtime.ops.prologue import Prologue

CASES = [
    Case(20, 72, 4, 16, act_group=16, epsilon=1e-5),
    Case(20, 72, 4, 16, act_group=16, hadamard=36, bias=True),
    Case(33, 64, 4, 32, acts="none", epsilon=1e-2, hadamard=64),
    Case(20, 70, 3, hadamard=2, residual=True, zero_points=True),
    Case(20, 96, 4, 32, static=True),
    Case(32, 96, 4, 32, epsilon=1e-6, hadamard=48, static=True, splits=(16, 16)),
]


def operator(case: Case) -> LowBitMatMul:
    """The node's configuration, of which the function body is made."""
    order = hadamard_base(case.hadamard)[0] if case.hadamard else 1
    return LowBitMatMul(
        PackedWeight(case.n, case.k, case.bits, case.group_size, case.zero_points, case.table),
        case.acts,
        case.act_group or case.k,
        case.bias,
        case.activation,
        case.residual,
        case.splits,
        Prologue(case.epsilon, case.hadamard, order),
        case.static,
    )


@pytest.mark.parametrize("case", CASES, ids=str)
def test_body_agrees_with_the_oracle(case: Case) -> None:
    """Random rows closely, up to a code; the attributes are the node's."""
    made, inputs = operator(case), case.weights()
    attributes = case.attributes()
    assert {k: list(v) if isinstance(v, tuple) else v for k, v in made.attributes().items()} == (
        attributes
    )
    model = matmul_model(attributes, inputs, residual=case.residual)
    function = made.function()
    model.graph.node[0].overload = function.overload
    model.functions.append(ir.serde.serialize_function(function))
    model.opset_import[0].version = 23
    run = ort.InferenceSession(model.SerializeToString())
    for m in (1, 5):
        feeds = case.feeds(m)
        expected = case.expected(feeds["X"], inputs, feeds.get("residual"))
        y = np.concatenate(run.run(None, feeds), axis=-1)
        assert np.abs(y - expected).max() <= 1e-2 * np.abs(expected).max()
        feeds["X"][0, 3] = np.nan
        assert np.isnan(run.run(None, feeds)[0][0]).all()


PLAIN = Case(40, 96, 4, 32, act_group=32)


@pytest.mark.parametrize(
    ("case", "change", "message"),
    [
        (replace(PLAIN, epsilon=-1.0), {}, "'epsilon': expected 0 or more, found -1"),
        (replace(PLAIN, epsilon=float("nan")), {}, "'epsilon': expected 0 or more, found nan"),
        (replace(PLAIN, epsilon=float("inf")), {}, "'epsilon': expected 0 or more, found inf"),
        (PLAIN, {"hadamard_size": 64}, "'hadamard_size': expected a divisor of K = 96, found 64"),
        (PLAIN, {"hadamard_size": 96}, "'hadamard_size': expected a power of two, found 96"),
        (PLAIN, {"hadamard_size": 0}, "'hadamard_size': expected 1 to"),
        (
            replace(PLAIN, hadamard=48),
            {"hadamard_size": 36},
            "'hadamard_size': expected 12 times a power of two, found 36",
        ),
        (
            replace(PLAIN, static=True),
            {},
            "'act_group_size': expected K = 96 beside act_scale, found 32",
        ),
        (
            replace(PLAIN, static=True, acts="none"),
            {},
            "act_scale: expected none but with acts=int8",
        ),
        (
            replace(PLAIN, static=True, acts="int4"),
            {},
            "act_scale: expected none but with acts=int8",
        ),
    ],
    ids=str,
)
def test_refused_attributes(case: Case, change: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match="LowBitMatMul: ") as caught:
        session(matmul_model({**case.attributes(), **change}, case.weights()))
    assert message in str(caught.value)


@pytest.mark.parametrize("value", ["", "64", 64.0, [64], [64.0]])
def test_size_of_another_type(value: Any) -> None:
    """It is not taken for one that is left out."""
    with pytest.raises(Exception, match="'hadamard_size': expected an int, found another type"):
        session(matmul_model({**PLAIN.attributes(), "hadamard_size": value}, PLAIN.weights()))


def test_norm_without_epsilon() -> None:
    case = replace(PLAIN, epsilon=1.0)
    attributes = {k: v for k, v in case.attributes().items() if k != "epsilon"}
    with pytest.raises(Exception, match="attribute 'epsilon', found none"):
        session(matmul_model(attributes, case.weights()))


def test_base_without_a_size() -> None:
    weights = {**PLAIN.weights(), "hadamard": base_of(12)}
    with pytest.raises(Exception, match="attribute 'hadamard_size', found none"):
        session(matmul_model(PLAIN.attributes(), weights))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("norm_gain", np.ones(95, np.float32), "norm_gain: expected float32 of shape [96], found"),
        ("norm_gain", np.ones(0, np.float32), "norm_gain: expected float32 of shape [96], found"),
        ("norm_gain", np.ones((1, 96), np.float32), "expected float32 of shape [96], found [1, 96"),
        ("act_scale", np.ones(2, np.float32), "act_scale: expected 1 float32 element, found 2"),
        ("act_scale", np.ones(0, np.float32), "act_scale: expected 1 float32 element, found 0"),
        ("act_scale", np.zeros(1, np.float32), "act_scale: expected 1e-30 to 1e30"),
        ("act_scale", np.full(1, -1, np.float32), "act_scale: expected 1e-30 to 1e30"),
        ("act_scale", np.full(1, np.nan, np.float32), "act_scale: expected 1e-30 to 1e30"),
        ("act_scale", np.full(1, np.inf, np.float32), "act_scale: expected 1e-30 to 1e30"),
    ],
)
def test_refused_inputs(name: str, value: np.ndarray, message: str) -> None:
    """Refused when the session opens, or, where the input is fed, when it runs."""
    case = Case(40, 96, 4, epsilon=1e-5, static=True)
    weights = {**case.weights(), name: value}
    with pytest.raises(Exception, match="LowBitMatMul: ") as caught:
        session(matmul_model(case.attributes(), weights))
    assert message in str(caught.value)
    fed = session(matmul_model(case.attributes(), weights, constant=False))
    with pytest.raises(Exception, match="bitfold: ") as caught:
        fed.run(None, {"X": case.rows(2), **weights})
    assert message in str(caught.value)
