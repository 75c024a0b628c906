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
    try:
        with _Quiet("onnxscript.version_converter"):
            version_converter.convert_version(model, target, fallback=True)
    except (RuntimeError, PassError) as error:
        raise UnsupportedError(
            f"the model cannot be brought from opset {found} to {target}: {error}",
            hint="export the model again with a newer opset",
        ) from error
    reached = model.opset_imports.get("")
    if reached != target:
        raise UnsupportedError(
            f"the model cannot be brought from opset {found} to {target}: "
            f"an operator has no conversion (stopped at {reached})",
            hint="export the model again with a newer opset",
        )
    for value, name in zip(model.graph.outputs, names, strict=True):
        value.name = name
    # Files of the old IR versions list initializers as inputs; new opsets want a new IR version.
    model.ir_version = max(model.ir_version or 0, 10)
    return found


class _Quiet:
    """Keep a library's warnings off the terminal: failure is reported by raising."""

    def __init__(self, logger: str) -> None:
        self._logger = logging.getLogger(logger)
        self._level = self._logger.level

    def __enter__(self) -> None:
        self._logger.setLevel(logging.CRITICAL)

    def __exit__(self, *_: object) -> None:
        self._logger.setLevel(self._level)
