"""Inline a model's own functions, whatever opset each of them was written for."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common

from bitfold.runtime.errors import ModelError, UnsupportedError
from bitfold.runtime.ops import DOMAIN


def inline_functions(model: ir.Model) -> bool:
    """Replace every call of a model-local function by its body, in place.

    A body's nodes keep the opset of their function as their ``version``, for the conversion that
    follows.  The functions of bitfold's own operators stay: they only say what the kernels do.

    Returns:
        Whether there was a function to inline.

    Raises:
        ModelError: functions call each other in a circle, or a call does not fit its function.
        UnsupportedError: a function takes a graph as an attribute, or two functions want
            different versions of a domain other than the default one.
    """
    functions = [f for f in model.functions.values() if f.domain != DOMAIN]
    if not functions:
        return False
    for function in functions:
        _tag_versions(function, model)
    try:
        common.InlinePass(criteria=lambda function: function.domain != DOMAIN)(model)
    except ir.passes.PreconditionError as error:
        raise ModelError(f"the model's functions cannot be inlined: {error}") from error
    except (ValueError, KeyError, ir.passes.PassError) as error:
        cause = str(error.__cause__ or error).strip()
        kind = UnsupportedError if "graph attribute" in cause or "mismatch" in cause else ModelError
        raise kind(
            f"the model's functions cannot be inlined: {cause}",
            hint="export the model without local functions",
        ) from error
    # Inlined values may carry names that subgraphs use too.
    common.NameFixPass()(model)
    return True


def _tag_versions(function: ir.Function, model: ir.Model) -> None:
    """Note on each standard node which opset it was written for, and drop the disagreement."""
    version = function.opset_imports.pop("", None) or function.opset_imports.pop("ai.onnx", None)
    for node in function.all_nodes():
        if node.domain == "" and version is not None:
            node.version = version
    for domain in list(function.opset_imports):
        # What the body calls may be of any version: a function of the model has none to speak of.
        if domain in {f.domain for f in model.functions.values()}:
            del function.opset_imports[domain]
