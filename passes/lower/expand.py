"""Replace what is left of bitfold's functions by their bodies, which are standard operators."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from bitfold.passes.lower.opset import require_opset
from bitfold.runtime.ops import DOMAIN

OPSET = 21
"""The version from which the operators of the bodies, which are written in 23, mean the same."""


def expand_functions(model: ir.Model) -> bool:
    """Inline every call of a function of the ``bitfold`` domain; return whether there was any.

    Raises:
        UnsupportedError: the graph's opset is too old for the bodies.
    """
    if not any(node.domain == DOMAIN for node in model.graph.all_nodes()):
        return False
    require_opset(model, OPSET)
    newest = model.graph.opset_imports[""]
    for function in model.functions.values():
        if function.domain == DOMAIN:
            function.opset_imports[""] = newest
    InlinePass(criteria=lambda function: function.domain == DOMAIN)(model)
    return True
