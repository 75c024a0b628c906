"""``lower``: turn the neutral quantized form into the operators of a target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import onnx_ir as ir
from onnx_ir.passes.common import (
    RemoveUnusedFunctionsPass,
    RemoveUnusedNodesPass,
    RemoveUnusedOpsetsPass,
)

from bitfold.passes.core.base import Pass, Promise
from bitfold.passes.core.context import Context
from bitfold.passes.lower.native import lower_to_native


@dataclass(frozen=True)
class Lower(Pass):
    """Emit the quantized sites as a target's low-bit operators.

    Target ``native``: ``bitfold.LowBitMatMul`` and ``bitfold.LowBitGather`` on packed weights,
    with a following bias and SwiGLU taken in.  Every such node carries a function body of
    stock operators, so that the file also runs where the op library is not loaded.

    Attributes:
        target: what the model must run on.
    """

    name: ClassVar[str] = "lower"
    promise: ClassVar[Promise] = Promise.EXACT

    target: Literal["native"] = "native"

    def run(self, model: ir.Model, context: Context) -> bool:
        changed = lower_to_native(model, context)
        for cleanup in (RemoveUnusedNodesPass, RemoveUnusedFunctionsPass, RemoveUnusedOpsetsPass):
            cleanup()(model)
        return changed
