"""Bring a model to one opset of the default domain, without moving its weights."""

from __future__ import annotations

import logging

import onnx_ir as ir
from onnx_ir.passes import PassError
from onnxscript import version_converter

from bitfold.runtime.errors import UnsupportedError

OLDEST = 11


def convert_opset(model: ir.Model, target: int) -> int:
    """Convert ``model`` in place to opset ``target`` and return the opset it had.

    onnxscript's converter does opsets 18 and later on the graph itself; older ones go through
    ONNX's converter in a proto that holds no tensor of more than a thousand elements, so the
    weights stay where they are and the two-gigabyte limit of protos does not apply.  Model-local
    functions are inlined.

    Raises:
        UnsupportedError: the model's opset is older than 11 or newer than ``target``, or an
            operator has no conversion.
    """
    found = model.opset_imports.get("", model.opset_imports.get("ai.onnx"))
    if found is None:
        model.opset_imports[""] = target
        return target
    if not OLDEST <= found <= target:
        raise UnsupportedError(
            f"the model's opset: expected {OLDEST} to {target}, found {found}",
            hint="export the model again with an opset in that range",
        )
    if found == target:
        return found
    names = [value.name for value in model.graph.outputs]
    reasons = _Reasons()
    hint = "export the model again with a newer opset"
    try:
        with reasons:
            version_converter.convert_version(model, target, fallback=True)
    except (RuntimeError, PassError) as error:
        raise UnsupportedError(
            f"the model cannot be brought from opset {found} to {target}: {error}", hint
        ) from error
    if model.opset_imports.get("") != target:
        raise UnsupportedError(
            f"the model cannot be brought from opset {found} to {target}: {reasons}", hint
        )
    for value, name in zip(model.graph.outputs, names, strict=True):
        value.name = name
    # Files of the old IR versions list initializers as inputs; new opsets want a new IR version.
    model.ir_version = max(model.ir_version or 0, 10)
    return found


class _Reasons(logging.Handler):
    """Why the converter gave up: it only logs that.  Nothing reaches the terminal meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self._logger = logging.getLogger("onnxscript.version_converter")
        self._text = "an operator has no conversion"

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            self._text = str(record.exc_info[1])

    def __enter__(self) -> None:
        self._propagate, self._logger.propagate = self._logger.propagate, False
        self._logger.addHandler(self)

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self)
        self._logger.propagate = self._propagate

    def __str__(self) -> str:
        return self._text
