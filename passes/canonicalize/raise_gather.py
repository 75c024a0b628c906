"""Raise GatherND that takes whole rows to Gather, the form that tables have."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import MatchResult, RewriteRule

from bitfold.passes.canonicalize.rules import Rule, ints, pass_over


class RaiseGather(Rule):
    """``GatherND(data, Unsqueeze(indices, -1))`` to ``Gather(data, indices, axis=0)``.

    PyTorch's exporter writes ``table[ids]`` in this way.
    """

    def __init__(self) -> None:
        # Several tables may be read at the same places.
        super().__init__("Gather raised from GatherND", remove_nodes=False)

    def pattern(self, op: Any, data: Any, indices: Any, axes: Any) -> Any:
        wide = op.Unsqueeze(indices, axes, _outputs=["wide"])
        return op.GatherND(data, wide, _allow_other_attributes=True, _outputs=["out"])

    def check(
        self, context: Any, axes: ir.Value, wide: ir.Value, out: ir.Value, **_: Any
    ) -> MatchResult:
        node = out.producer()
        if node is None or node.attributes.get_int("batch_dims", 0) != 0:
            return pass_over()
        last = len(wide.shape) - 1 if wide.shape is not None else -1
        return MatchResult() if ints(axes) in ([-1], [last]) else pass_over()

    def rewrite(self, op: Any, data: ir.Value, indices: ir.Value, **_: Any) -> Any:
        return op.Gather(data, indices, axis=0)


RULES: tuple[RewriteRule, ...] = (RaiseGather.rule(),)
