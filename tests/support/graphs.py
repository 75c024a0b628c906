"""Write small graphs as text, run models, and print them as text for golden tests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from bitfold.passes.core.base import Pass
from bitfold.passes.core.context import Context
from bitfold.passes.core.report import PassEntry
from bitfold.runtime.execution import open_session


def parse(text: str, opset: int = 23, **constants: np.ndarray) -> ir.Model:
    """A model from the text form of a graph; ``constants`` become initializers."""
    header = f'<ir_version: 10, opset_import: ["": {opset}, "com.microsoft": 1]>\n'
    model = ir.from_proto(onnx.parser.parse_model(header + text))
    for name, array in constants.items():
        used = [v for node in model.graph.all_nodes() for v in node.inputs if v and v.name == name]
        value = used[0]
        value.const_value = ir.tensor(np.asarray(array, order="C"), name=name)
        value.type = ir.TensorType(value.const_value.dtype)
        value.shape = ir.Shape(np.shape(array))
        model.graph.register_initializer(value)
    ShapeInferencePass()(model)
    return model


def apply(item: Pass, model: ir.Model, samples: Sequence[dict[str, np.ndarray]] = ()) -> PassEntry:
    """Run a pass in place, with sample inputs to take statistics of; return its report entry."""
    with Context(calibration=samples) as context:
        context.entry = PassEntry(item.name, {}, item.promise.value)
        changed = item.run(model, context)
        context.entry.status = "applied" if changed else "unchanged"
        return context.entry


def run(model: ir.Model, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs of a model; arrays that it has no input for are left out."""
    session = open_session(model)
    names = session.input_names
    return session.run({name: array for name, array in feeds.items() if name in names})


def assert_same(
    before: dict[str, np.ndarray], after: dict[str, np.ndarray], tolerance: float = 2e-5
) -> None:
    """Outputs agree up to ``tolerance`` of each one's largest value."""
    assert before.keys() == after.keys()
    for name, expected in before.items():
        assert expected.shape == after[name].shape
        scale = max(1e-30, float(np.abs(expected).max(initial=0)))
        error = float(np.abs(expected - after[name]).max(initial=0)) / scale
        assert error <= tolerance, f"{name} is off by {error:.2g}"


def census(model: ir.Model) -> Counter[str]:
    """How many nodes there are of each operator."""
    return Counter(node.op_type for node in model.graph.all_nodes())


def text_of(model: ir.Model) -> list[str]:
    """One line a node: ``outputs = Operator(inputs)``."""
    lines = []
    for node in model.graph:
        inputs = ", ".join("" if value is None else str(value.name) for value in node.inputs)
        outputs = ", ".join(str(value.name) for value in node.outputs)
        lines.append(f"{outputs} = {node.op_type}({inputs})")
    return lines
