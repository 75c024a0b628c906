"""Masked weights that LowBitMatMul refuses: bytes that do not fit their masks, no zero level."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.lowbit_nodes import Case, gather_attributes, gather_model, matmul_model, session

CASE = Case(40, 96, 4, 32, act_group=32, kept=0.5)


def expect_refusal(case: Case, inputs: dict[str, np.ndarray], message: str) -> None:
    """When the session opens; where the weight is fed, when it runs."""
    with pytest.raises(Exception, match=message):
        session(matmul_model(case.attributes(), inputs))
    fed = session(matmul_model(case.attributes(), inputs, constant=False))
    with pytest.raises(Exception, match=message):
        fed.run(None, {"X": case.rows(2), **inputs})


@pytest.mark.parametrize("size", [0, 1, 63, 64, 639, -65, -64, -1])
def test_truncated_bytes(size: int) -> None:
    inputs = CASE.weights()
    inputs["packed"] = inputs["packed"][:size]
    expect_refusal(CASE, inputs, "packed: expected")


def test_bytes_behind_the_last() -> None:
    inputs = CASE.weights()
    inputs["packed"] = np.append(inputs["packed"], np.uint8(0))
    expect_refusal(CASE, inputs, "packed: expected .* elements for these masks, found")


@settings(max_examples=40)
@given(
    places=st.lists(st.integers(0, 3 * 3 * 64 - 1), min_size=1, max_size=9),
    value=st.integers(0, 255),
)
def test_masks_of_other_sizes(places: list[int], value: int) -> None:
    """Whatever the masks say, lines stay within the tensor: sums are those of the oracle."""
    inputs = CASE.weights()
    inputs["packed"][places] = value
    x = CASE.rows(2)
    model = matmul_model(CASE.attributes(), inputs)
    try:
        expected = CASE.expected(x, inputs)
    except ValueError:
        with pytest.raises(Exception, match="packed: expected"):
            session(model)
        return
    assert np.abs(session(model).run(None, {"X": x})[0] - expected).max() < 1e-4


def test_zero_points_that_are_no_levels() -> None:
    case = replace(CASE, zero_points=True)
    inputs = case.weights()
    inputs["zero_points"][1, 2, 3] = 8
    expect_refusal(case, inputs, "zero_points: expected -8 to 7 with layout 4, found 8")


def test_float_tables() -> None:
    case = Case(20, 64, 3, acts="none", float_table=True, kept=0.5)
    inputs = case.weights()
    inputs["table"][inputs["table"] == 0] = 1
    expect_refusal(case, inputs, "table: expected a level of 0 with layout 4, found none")
    asymmetric = replace(case, zero_points=True)
    message = "zero_points: expected none with layout 4 and a table of float32"
    expect_refusal(asymmetric, asymmetric.weights(), message)


def test_gather_takes_none() -> None:
    case = Case(40, 96, 4, 32)
    attributes = {**gather_attributes(case), "layout": 4}
    with pytest.raises(Exception, match="LowBitGather: attribute 'layout': expected 3, found 4"):
        session(gather_model(attributes, case.weights()))
