"""Nodes that the operators refuse: bad attributes, truncated weights, indices out of range."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from onnx import helper
from support.lowbit_nodes import (
    Case,
    gather_attributes,
    gather_model,
    matmul_model,
    matmul_session,
    session,
)

CASE = Case(40, 96, 4, 32, act_group=32, zero_points=True, table=True, bias=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layout": 5}, "'layout': expected 3 or 4, found 5"),
        ({"layout": 0}, "'layout': expected 3 or 4, found 0"),
        ({"layout": 1}, "found 1 of an older bitfold: convert the model again"),
        ({"bits": 0}, "'bits': expected 1 to 8, found 0"),
        ({"bits": 9}, "'bits': expected 1 to 8, found 9"),
        ({"N": 0}, "'N': expected 1 to"),
        ({"N": -40}, "'N': expected 1 to"),
        ({"N": 1 << 40}, "'N': expected 1 to"),
        ({"K": 0}, "'K': expected 1 to"),
        ({"K": 1 << 62}, "'K': expected 1 to"),
        ({"group_size": 0}, "'group_size': expected 1 to 96, found 0"),
        ({"group_size": -32}, "'group_size'"),
        ({"group_size": 24}, "'group_size': expected K = 96 or a multiple of 16, found 24"),
        ({"group_size": 112}, "'group_size': expected 1 to 96, found 112"),
        ({"act_group_size": 48}, "'act_group_size': expected K = 96 or group_size = 32"),
        ({"acts": "int5"}, "'acts': expected 'none', 'int8', 'int4', 'int3', 'int2' or 'int1', f"),
        (
            {"activation": "silu"},
            "'activation': expected 'none', 'swiglu', 'relu', 'gelu' or 'gelu_t",
        ),
        ({"splits": [40.0]}, "'splits': expected a list of ints, found another type"),
        ({"splits": [16, 16]}, "'splits': expected sizes that add up to 40, found [16, 16]"),
        ({"splits": [8, 32]}, "'splits': expected multiples of 16, found [8, 32]"),
        ({"splits": [48, -8]}, "'splits': expected sizes that add up to 40"),
        ({"N": 41, "activation": "swiglu"}, "'N': expected an even number for swiglu, found 41"),
        ({"N": 64}, "packed: expected 3072 elements, found 2304"),
        ({"K": 128, "act_group_size": 128}, "packed: expected 3072 elements"),
        ({"bits": 5}, "packed: expected 2880 elements"),
        ({"group_size": 16, "act_group_size": 16}, "scales: expected 288 elements, found 144"),
    ],
)
def test_attributes(change: dict[str, Any], message: str) -> None:
    model = matmul_model({**CASE.attributes(), **change}, CASE.weights())
    with pytest.raises(Exception, match="LowBitMatMul: ") as caught:
        session(model)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["N", "K", "bits", "group_size", "layout", "acts", "activation"])
def test_missing_attribute(name: str) -> None:
    attributes = {key: value for key, value in CASE.attributes().items() if key != name}
    with pytest.raises(Exception, match=f"attribute '{name}', found none"):
        session(matmul_model(attributes, CASE.weights()))


@pytest.mark.parametrize("name", ["packed", "scales", "zero_points", "table", "bias"])
@pytest.mark.parametrize("keep", [0, -1])
def test_truncated_weight(name: str, keep: int) -> None:
    """Refused when the session opens, or, where the weight is fed, when it runs."""
    weights = CASE.weights()
    weights[name] = weights[name].reshape(-1)[:keep]
    with pytest.raises(Exception, match=f"LowBitMatMul: {name}: expected"):
        session(matmul_model(CASE.attributes(), weights))
    fed = session(matmul_model(CASE.attributes(), weights, constant=False))
    with pytest.raises(Exception, match=f"{name}: expected"):
        fed.run(None, {"X": CASE.rows(2), **weights})


@pytest.mark.parametrize("factor", [0.0, -1.0, 1e31, float("nan"), float("inf")])
def test_factors_of_scales_out_of_range(factor: float) -> None:
    case = replace(CASE, scales="e4m3")
    attributes = {**case.attributes(), "scale_factor": factor}
    with pytest.raises(Exception, match="attribute 'scale_factor': expected 1e-30 to 1e30"):
        session(matmul_model(attributes, case.weights()))


def test_a_factor_beside_scales_that_take_none() -> None:
    attributes = {**CASE.attributes(), "scale_factor": 2.0}
    with pytest.raises(Exception, match="'scale_factor': expected scales of type float8e4m3fn"):
        session(matmul_model(attributes, CASE.weights()))


def test_int8_inputs_beside_float_levels() -> None:
    case = replace(CASE, float_table=True, acts="int8")
    inputs = case.weights()
    with pytest.raises(Exception, match="table: expected type int8 with int8 inputs"):
        session(matmul_model(case.attributes(), inputs))
    fed = session(matmul_model(case.attributes(), inputs, constant=False))
    with pytest.raises(Exception, match="table: expected type int8 with int8 inputs"):
        fed.run(None, {"X": case.rows(1), **inputs})


def test_scales_of_another_type() -> None:
    weights = CASE.weights()
    weights["scales"] = weights["scales"].astype(np.float64)
    with pytest.raises(Exception, match="scales: expected type float16, float32, bfloat16"):
        session(matmul_model(CASE.attributes(), weights))


def test_group_that_could_overflow() -> None:
    """127 * 255 * K must stay below 2**31."""
    case = Case(1, 65552, 1)
    with pytest.raises(Exception, match="'group_size': expected at most 65536"):
        matmul_session(case)


def test_largest_group_is_exact() -> None:
    """The extreme codes and activations of the longest group do not overflow."""
    case = Case(16, 65536, 8, f16=False)
    weights = case.weights()
    weights["scales"][:] = 1
    for code in (0, 255):
        weights["packed"][:] = code
        y = session(matmul_model(case.attributes(), weights)).run(
            None, {"X": np.ones((1, case.k), np.float32)}
        )[0]
        np.testing.assert_allclose(y, (code - 128) * case.k, rtol=1e-6)


@pytest.mark.parametrize("shape", [(), (2, 95), (96, 2)])
def test_rows_of_another_width(shape: tuple[int, ...]) -> None:
    with pytest.raises(Exception, match="X: expected a last dimension of K = 96"):
        matmul_session(CASE).run(None, {"X": np.zeros(shape, np.float32)})


@pytest.mark.parametrize("shape", [(3, 39), (2, 40), (120,), (1, 3, 40), ()])
def test_residual_of_another_shape(shape: tuple[int, ...]) -> None:
    run = session(matmul_model(CASE.attributes(), CASE.weights(), residual=True))
    with pytest.raises(Exception, match=r"residual: expected float32 of Y's shape, \[3, 40\]"):
        run.run(None, {"X": CASE.rows(3), "residual": np.zeros(shape, np.float32)})


@pytest.mark.parametrize("value", [40, 40.0, "40"])
def test_splits_of_another_type(value: Any) -> None:
    """They are not taken for ones that are left out."""
    model = matmul_model(CASE.attributes(), CASE.weights())
    model.graph.node[0].attribute.append(helper.make_attribute("splits", value))
    with pytest.raises(Exception, match="'splits': expected a list of ints, found another type"):
        session(model)


def test_residual_beside_splits() -> None:
    attributes = {**CASE.attributes(), "splits": [16, 24]}
    with pytest.raises(Exception, match="residual: expected none beside attribute 'splits'"):
        session(matmul_model(attributes, CASE.weights(), residual=True))


def test_number_of_outputs() -> None:
    model = matmul_model({**CASE.attributes(), "splits": [16, 24]}, CASE.weights())
    del model.graph.node[0].output[1], model.graph.output[1]
    with pytest.raises(Exception, match="expected 2 outputs, found 1"):
        session(model).run(None, {"X": CASE.rows(1)})


def test_weights_that_are_fed() -> None:
    weights = CASE.weights()
    fed = session(matmul_model(CASE.attributes(), weights, constant=False))
    x = CASE.rows(3)
    y = fed.run(None, {"X": x, **weights})[0]
    assert y.tobytes() == matmul_session(CASE).run(None, {"X": x})[0].tobytes()


@pytest.mark.parametrize("index", [40, -41, 1 << 40, -(1 << 62)])
def test_index_out_of_range(index: int) -> None:
    inputs = {k: v for k, v in CASE.weights().items() if k != "bias"}
    run = session(gather_model(gather_attributes(CASE), inputs))
    with pytest.raises(Exception, match="indices: expected -40 to 39"):
        run.run(None, {"indices": np.array([0, index])})


def test_gather_refuses_truncated_weights() -> None:
    inputs = {k: v for k, v in CASE.weights().items() if k != "bias"}
    inputs["packed"] = inputs["packed"][:-64]
    with pytest.raises(Exception, match="LowBitGather: packed: expected 2304 elements"):
        session(gather_model(gather_attributes(CASE), inputs))
