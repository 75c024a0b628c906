"""The models and operator tests that come with the onnx package, through canonicalize.

The models are from real exporters of opsets 6 to 12, with outputs that PyTorch computed; the
operator tests cover every operator of every domain up to the newest opset.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, numpy_helper

from bitfold.frontend.importers import import_model
from bitfold.passes.canonicalize.canonicalize import Canonicalize
from bitfold.passes.core.context import Context
from bitfold.passes.core.pipeline import Pipeline
from bitfold.passes.opsets.convert import CANONICAL
from bitfold.runtime.errors import BitfoldError
from bitfold.runtime.execution import open_session

DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
FOLDERS = [
    path.parent
    for group in ("pytorch-converted", "pytorch-operator", "simple")
    for path in sorted((DATA / group).glob("*/model.onnx"))
]
EVERY = 10
"""One in so many of the operator tests is run."""

HAS_NO_KERNEL = ("gradient_of", "strnorm")
"""ORT lacks training operators, and string normalization needs locales of the system."""


def read(path: Path) -> np.ndarray[Any, Any]:
    return numpy_helper.to_array(TensorProto.FromString(path.read_bytes()))


@pytest.mark.skipif(not FOLDERS, reason="this onnx package comes without its test data")
@pytest.mark.parametrize(
    "folder", FOLDERS, ids=lambda folder: f"{folder.parent.name}/{folder.name}"
)
def test_old_models_keep_their_outputs(folder: Path) -> None:
    if any(word in folder.name for word in HAS_NO_KERNEL):
        pytest.skip("ONNX Runtime has no kernel for it here")
    model = import_model(folder / "model.onnx")
    data = folder / "test_data_set_0"
    try:
        arrays = [read(path) for path in sorted(data.glob("input_*.pb"))]
        expected = [read(path) for path in sorted(data.glob("output_*.pb"))]
    except Exception:
        pytest.skip("its data are no tensors")
    with Context() as context:
        Canonicalize().run(model, context)
        assert model.opset_imports[""] == CANONICAL
        names = [v.name for v in model.graph.inputs if v.name not in model.graph.initializers]
        session = open_session(model)
        found = session.run(dict(zip(names, arrays, strict=True)))
    for array, (name, result) in zip(expected, found.items(), strict=True):
        np.testing.assert_allclose(result, array, rtol=1e-3, atol=1e-5, err_msg=name)


def operator_tests() -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        return sorted(collect_testcases(None), key=lambda case: case.name)[::EVERY]


def plain(array: Any) -> bool:
    return isinstance(array, np.ndarray) and array.dtype != object


def test_operators_are_kept_or_refused_with_a_reason() -> None:
    """Exact through canonicalize on the operator's own data, or a BitfoldError: nothing else."""
    kept = 0
    for case in operator_tests():
        names = [value.name for value in case.model.graph.input]
        samples = [dict(zip(names, inputs, strict=False)) for inputs, _ in case.data_sets or ()]
        samples = [each for each in samples if all(map(plain, each.values()))]
        try:
            with Context(samples) as context:
                _, report = Pipeline("canonicalize", context, verify="full").run(
                    import_model(case.model)
                )
        except BitfoldError as error:
            if "fault of the pass" in error.hint:
                pytest.fail(f"{case.name}: {error}")
            continue
        (entry,) = report.passes
        # Types that came after the passes' opset, in which the model is none.
        newer = "INT2" in case.name or "Type Error" in str(entry.culprit)
        newer = newer and case.model.opset_import[0].version > CANONICAL
        assert entry.status != "rolled-back" or newer, (case.name, entry.culprit)
        kept += 1
    assert kept > 100


def test_negative_dimensions_are_free() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[2, 3] x) => (float[2, 3] y) { y = Relu(x) }"""
    proto = onnx.parser.parse_model(text)
    for info in (*proto.graph.input, *proto.graph.output):
        info.type.tensor_type.shape.dim[0].dim_value = -1
    model = import_model(proto)
    for value in (*model.graph.inputs, *model.graph.outputs):
        assert value.shape is not None
        assert not isinstance(value.shape[0], int)
        assert value.shape[1] == 3
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value == -1
    feeds = {"x": np.ones((5, 3), np.float32)}
    assert open_session(model).run(feeds)["y"].shape == (5, 3)
    assert isinstance(model, ir.Model)
