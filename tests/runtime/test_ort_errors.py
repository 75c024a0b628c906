"""ORT's exceptions: their cause alone, without places in its source."""

from __future__ import annotations

import pytest

from bitfold.runtime.errors import ModelError
from bitfold.runtime.ort_errors import explained

SAID = {
    "[ONNXRuntimeError] : 1 : FAIL : Load model from m.onnx failed:/src/core/graph/model.cc:256 "
    "onnxruntime::Model::Model(onnx::ModelProto&&, const std::function<void(int)>&) "
    "Unsupported model IR version: 99, max supported IR version: 13": (
        "Load model from m.onnx failed: Unsupported model IR version: 99, max supported "
        "IR version: 13"
    ),
    "[ONNXRuntimeError] : 1 : FAIL : External data path validation failed for initializer: w. "
    "Error: tensorprotoutils.cc:461 ValidateExternalDataPathFromDir External data path does not "
    'exist: "/m/gone.bin"': (
        "External data path validation failed for initializer: w. Error: External data path "
        'does not exist: "/m/gone.bin"'
    ),
    "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running MatMul node. "
    "Name:'mm' Status Message: matmul_helper.h:59 Compute MatMul dimension mismatch": (
        "Non-zero status code returned while running MatMul node. Name:'mm' Status Message: "
        "MatMul dimension mismatch"
    ),
    "[ONNXRuntimeError] : 1 : FAIL : Status Message: /src/reshape_helper.h:91 "
    "onnxruntime::ReshapeHelper::Do(const onnxruntime::TensorShape&, bool) const a == b was "
    "false. Input shape:{2,3}": "Status Message: a == b was false. Input shape:{2,3}",
    "plain words (and brackets)": "plain words (and brackets)",
}


@pytest.mark.parametrize("text", SAID)
def test_the_cause_names_no_source(text: str) -> None:
    error = explained(RuntimeError(text), "m.onnx cannot be loaded")
    assert isinstance(error, ModelError)
    assert str(error) == f"m.onnx cannot be loaded: {SAID[text]}"
