"""Skipped columns: kernels against the oracle for every ISA, function body, refusals."""

from __future__ import annotations

import sys

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from support.check_process import run_check
from support.isas import isas
from support.lowbit_nodes import Case, matmul_model, session
from support.skip_checks import CHECKS

from bitfold.runtime.ops.lowbit_matmul import LowBitMatMul
from bitfold.runtime.ops.packed import PackedWeight
from bitfold.runtime.ops.prologue import Prologue
from bitfold.runtime.reference.skip_columns import without_skipped


@pytest.mark.parametrize("isa", isas("avx512bitalg"))
@pytest.mark.parametrize("check", CHECKS)
def test_kernels(check: str, isa: str) -> None:
    if check == "guard_pages" and sys.platform == "win32":
        pytest.skip("guard pages are made with mprotect")
    run_check("skip_checks", check, isa)


def test_oracle() -> None:
    rows = np.arange(80, dtype=np.float32).reshape(2, 40)
    norms = np.ones(40, np.float32)
    norms[:16] = 4
    kept = without_skipped(rows, norms, 0.5)
    assert np.array_equal(kept[0], np.where(np.arange(40) < 32, rows[0], 0))
    assert np.array_equal(without_skipped(rows, norms, 0.3)[1, 16:], np.zeros(24))
    rows[1, 0] = np.nan
    assert np.array_equal(without_skipped(rows, norms, 0.3)[1], rows[1], equal_nan=True)


BODIES = [
    Case(20, 72, 4, 16, act_group=16, keep=0.5),
    Case(20, 70, 8, acts="none", keep=0.25, epsilon=1e-3),
]


@pytest.mark.parametrize("case", BODIES, ids=str)
def test_body_agrees_with_the_oracle(case: Case) -> None:
    weight = PackedWeight(case.n, case.k, case.bits, case.group_size)
    prologue = Prologue(case.epsilon, keep=case.keep)
    made = LowBitMatMul(weight, case.acts, case.act_group or case.k, False, prologue=prologue)
    assert made.attributes() == case.attributes()
    inputs, function = case.weights(), made.function()
    model = matmul_model(case.attributes(), inputs)
    model.graph.node[0].overload = function.overload
    model.functions.append(ir.serde.serialize_function(function))
    model.opset_import[0].version = 23
    x = case.rows(4)
    x[3, 5] = np.nan
    y = ort.InferenceSession(model.SerializeToString()).run(None, {"X": x})[0]
    expected = case.expected(x, inputs)
    assert np.array_equal(np.isnan(y), np.isnan(expected))
    assert np.nanmax(np.abs(y - expected)) <= 1e-2 * np.nanmax(np.abs(expected))


@pytest.mark.parametrize("keep", [0.0, -0.5, 1.01, float("nan"), float("inf")])
def test_shares_that_are_refused(keep: float) -> None:
    case = Case(20, 72, 4, keep=keep)
    with pytest.raises(Exception, match="'keep': expected more than 0 and at most 1, found"):
        session(matmul_model(case.attributes(), case.weights()))


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_norms_that_are_refused(value: float) -> None:
    case = Case(20, 72, 4, keep=0.5)
    inputs = case.weights()
    inputs["column_norms"][71] = value
    with pytest.raises(Exception, match="column_norms: expected finite numbers of 0 or more"):
        session(matmul_model(case.attributes(), inputs))
    inputs["column_norms"] = inputs["column_norms"][:71]
    fed = session(matmul_model(case.attributes(), inputs, constant=False))
    with pytest.raises(
        Exception, match=r"column_norms: expected float32 of shape \[72\], found \[71\]"
    ):
        fed.run(None, {"X": case.rows(1), **inputs})


def test_signs_are_refused() -> None:
    case = Case(20, 72, 4, acts="int1", keep=0.5)
    with pytest.raises(Exception, match="column_norms: expected none with acts=int1"):
        session(matmul_model(case.attributes(), case.weights()))
