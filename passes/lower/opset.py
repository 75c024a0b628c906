"""Make sure that the graph's version of the standard operators has what a lowering writes."""

from __future__ import annotations

import onnx_ir as ir

from bitfold.passes.opsets.convert import CANONICAL
from bitfold.runtime.errors import UnsupportedError


def require_opset(model: ir.Model, version: int) -> None:
    """Raise the graph's version to ``version`` where it is lower.

    Raises:
        UnsupportedError: it is lower than that and than what canonicalize aims at.
    """
    current = model.graph.opset_imports.get("", 0)
    if current >= version:
        return
    if current < CANONICAL:
        raise UnsupportedError(
            f"the graph's version of the standard operators: expected {version} or newer, which "
            f"has blocks of weights, found {current}",
            "the pass canonicalize raises the version: put it before lower, or see in the report "
            "why it was undone",
        )
    model.graph.opset_imports[""] = version
    for node in model.graph.all_nodes():
        if node.domain == "" and node.version is not None:
            node.version = version
