"""What is run in the place of a model that ONNX Runtime cannot run as it is."""

from __future__ import annotations

import onnx_ir as ir

from bitfold.passes.core.context import Context
from bitfold.passes.core.samples import prepare_samples
from bitfold.passes.core.sizes import check_sizes
from bitfold.passes.core.stage import Stage, snapshot
from bitfold.passes.opsets.convert import CANONICAL, convert_opset
from bitfold.passes.opsets.widen_floats import widen_floats
from bitfold.runtime.errors import BitfoldError


def settle(stage: Stage, context: Context) -> str:
    """Open the stage's session, with a stand-in where ORT refuses the model itself.

    ORT's CPU kernels lack most of bfloat16, the opsets before 7, and those that are newer than
    itself.  The stand-in is the same graph in float32 and in the passes' opset: what passes do
    later is checked against it; the widening itself is not.

    Returns:
        What to tell the user of it; empty where the model runs as it is.

    Raises:
        ModelError: neither the model nor its stand-in can be loaded; why the model cannot.
        UnsupportedError: likewise, for want of an operator or type.
    """
    try:
        stage.open()
    except BitfoldError as error:
        runs = _stand_in(stage.model, context)
        if runs is None:
            raise
        stage.runs = runs
        try:
            stage.open()
        except BitfoldError:
            raise error from None
        return (
            "checks compare with the model's graph in float32 and the passes' opset, since "
            f"ONNX Runtime cannot run it as it is: {error}"
        )
    return ""


def check_runs(model: ir.Model, context: Context) -> None:
    """Run ``model`` on the context's samples, or on made-up ones.

    Raises:
        ModelError: it does not run; why not.
        UnsupportedError: likewise, for want of an operator or type.
        CalibrationError: likewise, where no inputs can be made that run.
    """
    check_sizes(model)
    stage = Stage(model, ())
    settle(stage, context)
    for feeds in prepare_samples(model, context, stage.run):
        stage.run(feeds)


def _stand_in(model: ir.Model, context: Context) -> ir.Model | None:
    """The model in float32 and the passes' opset; None where it is that already, or cannot be."""
    runs = snapshot(model)
    try:
        found = convert_opset(runs, CANONICAL)
        widened = widen_floats(runs, context.tensor)
        ir.passes.common.NameFixPass()(runs)
    except BitfoldError:
        return None
    return runs if widened or found != CANONICAL else None
